"""The drawn data set is the same everywhere, and its boxes are true."""

import csv
import hashlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddps_ray.quickstart import objects, shapes
from ddps_ray.quickstart.objects import BOXES_FILE, SIDE, backgrounds, draw_scene

DIGEST = """
import hashlib
from ddps_ray.quickstart.objects import backgrounds, draw_scene
photographs = backgrounds()
scenes = [draw_scene(name, "train", i, 0, photographs) for name, i in [("dice", 4), ("fish", 1)]]
print(hashlib.sha256(b"".join(s.image.tobytes() + str(s.box).encode() for s in scenes)).hexdigest())
"""


def test_another_process_draws_the_same_and_order_does_not_matter() -> None:
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    photographs = backgrounds()
    fish, dice = (draw_scene(name, "train", i, 0, photographs) for name, i in [("fish", 1), ("dice", 4)])
    here = hashlib.sha256(b"".join(s.image.tobytes() + str(s.box).encode() for s in (dice, fish))).hexdigest()
    assert told.stdout.strip() == here


def test_split_class_index_and_seed_each_make_another_scene() -> None:
    photographs = backgrounds()
    keys = [
        ("gem", "train", 0, 0),
        ("gem", "val", 0, 0),
        ("leaf", "train", 0, 0),
        ("gem", "train", 3, 0),
        ("gem", "train", 0, 1),
    ]
    scenes = {draw_scene(name, split, index, seed, photographs).image.tobytes() for name, split, index, seed in keys}
    assert len(scenes) == len(keys)


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_the_box_is_where_the_object_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paints the object white, then black: just the pixels that it covers differ."""
    photographs = backgrounds()
    draw = shapes.draw_object

    def painted(level: int, index: int) -> objects.Scene:
        def flat(name: str, variant: int, rng: random.Random) -> Image.Image:
            alpha = draw(name, variant, rng).getchannel("A")
            return Image.merge("RGBA", [*[Image.new("L", alpha.size, level)] * 3, alpha])

        monkeypatch.setattr(objects, "draw_object", flat)
        return draw_scene(name, "train", index, 0, photographs)

    for index in range(6):
        white, black = painted(255, index), painted(0, index)
        rows, columns = np.nonzero((np.asarray(white.image) != np.asarray(black.image)).any(axis=2))
        left, top, right, bottom = white.box
        assert black.box == white.box
        assert left <= columns.min() <= left + 1
        assert right - 2 <= columns.max() < right
        assert top <= rows.min() <= top + 1
        assert bottom - 2 <= rows.max() < bottom
        assert 0 <= left < right <= SIDE
        assert 0 <= top < bottom <= SIDE


def test_every_image_of_the_folder_has_its_box(scenes: Path) -> None:
    with (scenes / BOXES_FILE).open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    images = {path.relative_to(scenes).as_posix() for path in scenes.rglob("*.png")}
    assert rows.keys() == images
    assert len(images) == (12 + 6) * len(shapes.CLASSES)
    row = rows["val/ball/00004.png"]
    scene = draw_scene("ball", "val", 4, 0, backgrounds())
    assert np.array_equal(np.asarray(Image.open(scenes / "val/ball/00004.png")), np.asarray(scene.image))
    assert tuple(int(row[side]) for side in ("left", "top", "right", "bottom")) == scene.box
    assert int(row["variant"]) == scene.variant == 4 % shapes.VARIANTS
