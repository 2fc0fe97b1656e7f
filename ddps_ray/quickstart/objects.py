"""The data set "cluttered objects": an ImageFolder of small scenes, drawn anew, identically, on any machine."""

import argparse
import csv
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.datasets import load_sample_images

from ddps_ray.console import say
from ddps_ray.quickstart.shapes import CLASSES, VARIANTS, draw_distractor, draw_object

SIDE = 64
"""Side of every image in pixels."""

BOXES_FILE = "boxes.csv"
"""File beside the splits with the true box of each object; no stage reads it, only the report and tests do."""

_OBJECT_SIDES = (24, 28)
_DISTRACTOR_SIDES = (10, 22)
_BACKGROUND_SIDES = (70, 220)
_OBJECT_LEAN, _DISTRACTOR_LEAN = 20.0, 45.0
# All but the object is dim, pale and out of focus: where an object is shows through more noise than which one it is,
# so that the class says something of all of it, up to its edge.
_DIM, _PALE, _BLUR = 0.4, 0.4, 1.5


@dataclass(frozen=True)
class Scene:
    """One drawn image.

    Attributes:
        image: RGB, `SIDE`×`SIDE`.
        box: The object's pixels: left, top, right, bottom; right and bottom exclusive.
        variant: Which look of its class the object has.
    """

    image: Image.Image
    box: tuple[int, int, int, int]
    variant: int


def backgrounds() -> list[Image.Image]:
    """Returns scikit-learn's two sample photographs, which come with the package."""
    return [Image.fromarray(array) for array in load_sample_images().images]


def draw_scene(class_name: str, split: str, index: int, seed: int, photographs: list[Image.Image]) -> Scene:
    """Draws one scene: a crop of a photograph and distractors, out of focus, and one object of the class in front.

    The scene depends on (seed, split, class, index) and on nothing else.

    Args:
        class_name: A key of `shapes.CLASSES`.
        split: `train` or `val`; drawn apart.
        index: The scene's number within class and split; its variant is `index % VARIANTS`.
        seed: Seed of the whole data set.
        photographs: `backgrounds()`.
    """
    digest = hashlib.sha256(f"{seed}/{split}/{class_name}/{index}".encode()).digest()
    rng = random.Random(digest)
    scene = _background(photographs, rng)
    for _ in range(rng.randint(2, 4)):
        _paste(scene, draw_distractor(rng), rng.randint(*_DISTRACTOR_SIDES), rng, lean=_DISTRACTOR_LEAN)
    scene = ImageEnhance.Brightness(ImageEnhance.Color(scene).enhance(_PALE)).enhance(_DIM)
    scene = scene.filter(ImageFilter.GaussianBlur(_BLUR))
    variant = index % VARIANTS
    thing = _shift_hue(draw_object(class_name, variant, rng), rng.uniform(-0.02, 0.02), rng.uniform(0.92, 1.06))
    box = _paste(scene, thing, rng.randint(*_OBJECT_SIDES), rng, lean=_OBJECT_LEAN)
    return Scene(scene, box, variant)


def write_image_folder(root: Path, per_class: dict[str, int], seed: int) -> Iterator[str]:
    """Writes `root/<split>/<class>/<number>.png` and `root/boxes.csv`.

    Args:
        root: Folder to create.
        per_class: Images a class, by split.
        seed: Seed of the data set.

    Yields:
        The name of each finished class folder, for a progress line.
    """
    photographs = backgrounds()
    root.mkdir(parents=True, exist_ok=True)
    with (root / BOXES_FILE).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_id", "variant", "left", "top", "right", "bottom"])
        for split, count in per_class.items():
            for class_name in CLASSES:
                folder = root / split / class_name
                folder.mkdir(parents=True, exist_ok=True)
                for index in range(count):
                    scene = draw_scene(class_name, split, index, seed, photographs)
                    scene.image.save(folder / f"{index:05d}.png")
                    rows.writerow([f"{split}/{class_name}/{index:05d}.png", scene.variant, *scene.box])
                yield f"{split}/{class_name}"


def _background(photographs: list[Image.Image], rng: random.Random) -> Image.Image:
    photograph = rng.choice(photographs)
    side = rng.randint(*_BACKGROUND_SIDES)
    left, top = rng.randint(0, photograph.width - side), rng.randint(0, photograph.height - side)
    return photograph.resize((SIDE, SIDE), Image.Resampling.BOX, (left, top, left + side, top + side))


def _paste(
    scene: Image.Image, thing: Image.Image, side: int, rng: random.Random, lean: float
) -> tuple[int, int, int, int]:
    """Turns a thing by up to `lean` degrees, scales its longer side to `side`, pastes it inside, returns its box."""
    turned = thing.rotate(rng.uniform(-lean, lean), Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getchannel("A").getbbox())
    scale = side / max(turned.size)
    small = turned.resize(
        (max(1, round(turned.width * scale)), max(1, round(turned.height * scale))), Image.Resampling.BOX
    )
    left, top = rng.randint(0, SIDE - small.width), rng.randint(0, SIDE - small.height)
    scene.paste(small, (left, top), small)
    return left, top, left + small.width, top + small.height


def _shift_hue(thing: Image.Image, turn: float, light: float) -> Image.Image:
    """Turns every colour's hue by `turn` (1 is a full circle) and multiplies its value by `light`; alpha stays."""
    hsv = np.asarray(thing.convert("RGB").convert("HSV")).astype(np.int32)
    hsv[..., 0] = (hsv[..., 0] + round(turn * 256)) % 256
    hsv[..., 2] = np.clip(hsv[..., 2] * light, 0, 255)
    rgb = Image.fromarray(hsv.astype(np.uint8), mode="HSV").convert("RGB")
    rgb.putalpha(thing.getchannel("A"))
    return rgb


def main() -> None:
    """Draws a data set of any size: `python -m ddps_ray.quickstart.objects DIR --train 1000 --val 40 --seed 1`."""
    parser = argparse.ArgumentParser(description="Draw cluttered objects as an ImageFolder.")
    parser.add_argument("folder", type=Path, help="folder to create")
    parser.add_argument("--train", type=int, default=1000, help="training images a class (%(default)s)")
    parser.add_argument("--val", type=int, default=40, help="validation images a class (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed; the quickstart's own is 0 (%(default)s)")
    args = parser.parse_args()
    for done in write_image_folder(args.folder, {"train": args.train, "val": args.val}, args.seed):
        say(f"drawn: {done}")


if __name__ == "__main__":
    main()
