"""The judge proves itself before it is paid: on some images it must prefer their own class to another."""

import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from ddps_ray import imaging, manifest
from ddps_ray.config import Recipe, Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion import suitability
from ddps_ray.diffusion.flops import REACHED, flops_per_image
from ddps_ray.diffusion.judging import Contest, Contests
from ddps_ray.diffusion.scorer import Item
from ddps_ray.diffusion.staging import MODEL_FOLDER
from ddps_ray.errors import BadImage, UserError
from ddps_ray.sources import classes, subset
from ddps_ray.sources.reading import attempt
from ddps_ray.storage import Run
from ddps_ray.verdict import Verdict, wilson

WANTED = 100
"""Comparisons that are made; up to four times as many where they leave open whether it is chance."""

_MOST_PAIRS = 10
_MOST_RIVALS = 4
_ROUND = 10
_SECONDS = 60.0
_LEAST = 20
_SHIFTED = 0.75  # of the images; where labels are in disorder, the next class's is often better than the wrong one


def examine(recipe: Recipe, folder: Path | None = None, threads: int | None = None) -> Verdict:
    """Tries the recipe's model on about a hundred images of the training split, spread over the classes.

    The images, and the class against which each own one competes, follow from the seed and their ids. It takes a minute
    at most, besides loading the model.

    Args:
        recipe: The recipe, its model pinned.
        folder: The located checkpoint; by default it is located here.
        threads: CPU cores to take where there is no GPU; by default torch's own number.

    Raises:
        UserError: The model cannot be loaded, or not one of the images can be used.
    """
    run = Run(recipe.run_dir)
    folder = folder or checkpoints.locate(recipe.model, run.path(MODEL_FOLDER))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    examination = _Examination(recipe, run, folder, device)
    return examination.verdict()


def doubts(folder: Path, settings: Score, texts: Mapping[str, str]) -> list[str]:
    """Says what of model, prompts and class names can be meant, and mostly is not; see `suitability.doubts`."""
    nameless = classes.nameless(texts.values())
    found = [f"{len(nameless)} classes have names that name nothing: {nameless[0]!r} is one"] if nameless else []
    return found + suitability.doubts(folder, settings, texts)


class _Examination:
    def __init__(self, recipe: Recipe, run: Run, folder: Path, device: torch.device) -> None:
        self._recipe = recipe
        rows = manifest.classes(run, recipe.data.train).to_pylist()
        self._texts = {row["class_id"]: row["class_text"] for row in rows}
        self._images = _spread(recipe, run, list(self._texts))
        loaded = checkpoints.load(folder, recipe.model.dtype, device)
        self._cost = flops_per_image(folder, recipe.score, recipe.score.size, recipe.score.size)
        affordable = _SECONDS * REACHED[device.type == "cuda"] / (2 * WANTED * self._cost.unet / self._cost.unet_calls)
        pairs = max(1, min(recipe.score.pairs, _MOST_PAIRS, int(affordable)))
        self._contests = Contests(loaded, recipe.score, recipe.seed, pairs)
        self._factor = loaded.geometry.factor

    def verdict(self) -> Verdict:
        """Compares until it is clear, or time is up."""
        others = len(set(self._texts.values())) - 1
        rivals = min(others, _MOST_RIVALS, max(1, math.ceil(WANTED / max(1, len(self._images)))))
        found: list[Contest] = []
        used: list[Item] = []
        for items in self._items():
            held = self._contests.hold(items, [self._competing(item, rivals) for item in items])
            found, used = [*found, *held], [*used, *items]
            if self._enough(found, rivals):
                break
        if not found:
            raise UserError(f"data: none of {len(self._images)} images that were tried can be used; see `ddps plan`")
        verdict = self._sum(found)
        return verdict if verdict.is_judge else replace(verdict, causes=self._causes(verdict, used))

    def _enough(self, found: list[Contest], rivals: int) -> bool:
        verdict = self._sum(found)
        done = verdict.comparisons if rivals else verdict.images
        return (done >= WANTED and not verdict.is_chance) or done >= 4 * WANTED or (self._late() and done >= _LEAST)

    def _late(self) -> bool:
        return time.monotonic() - self._begun > _SECONDS

    def _items(self) -> Iterator[list[Item]]:
        """The images that can be used, a few at a time."""
        settings = self._recipe.score
        self._begun = time.monotonic()
        for start in range(0, len(self._images), _ROUND):
            rows = self._images[start : start + _ROUND]
            read = attempt(
                (row["uri"] for row in rows),
                lambda image: imaging.scale(image, settings.size, self._factor, settings.max_aspect),
            )
            yield [
                Item(row["image_id"], self._texts[row["class_id"]], np.asarray(image))
                for row, image in zip(rows, read, strict=True)
                if not isinstance(image, BadImage)
            ]

    def _competing(self, item: Item, rivals: int) -> list[str]:
        others = sorted(set(self._texts.values()) - {item.class_text})
        return [item.class_text, *random.Random(f"{self._recipe.seed}/{item.image_id}").sample(others, rivals)]

    def _sum(self, found: list[Contest]) -> Verdict:
        outcomes = [np.sign(other - own) for own, *others in (each.errors_K for each in found) for other in others]
        cost = self._cost
        calls = cost.unet_calls * cost.total / cost.unet  # the VAE's and the feature's operations as calls of the U-Net
        return Verdict(
            images=len(found),
            comparisons=len(outcomes),
            right=int(len(outcomes) + sum(outcomes)) // 2,  # of equal errors half
            timestep=self._contests.timestep,
            error=sum(contest.middle for contest in found) / max(1, len(found)),
            misread=sum(contest.misread for contest in found) / max(1, len(found)),
            seconds=calls * median(contest.seconds for contest in found) if found else math.inf,
        )

    def _causes(self, verdict: Verdict, items: list[Item]) -> tuple[str, ...]:
        """Likely causes, in the order in which they are easily mended."""
        causes = []
        if nameless := classes.nameless(self._texts.values()):
            causes.append(f"names that name nothing: a class is called {nameless[0]!r} (data.classes gives names)")
        causes += self._shift(items)
        if verdict.is_misread:
            declared, meant = ("v_prediction", "epsilon") if self._contests.velocity else ("epsilon", "v_prediction")
            causes.append(
                f"prediction_type is {declared} in scheduler/scheduler_config.json, and the model's output is {meant}: "
                f"read so, its error is {verdict.misread:.0%} of that without a model, and not {verdict.error:.0%}"
            )
        return (
            *causes,
            *(() if causes else ("a model that does not know such images, or labels that are not theirs",)),
        )

    def _shift(self, items: list[Item]) -> list[str]:
        """Whether the name of the next class, or of the one before, fits the images better."""
        names = list(self._texts.values())
        if len(set(names)) < len(names) or len(names) <= 2:
            return []
        items = items[:WANTED]
        for step, which in ((1, "next"), (-1, "previous")):
            texts = [[i.class_text, names[(names.index(i.class_text) + step) % len(names)]] for i in items]
            held = self._contests.hold(items, texts)
            better = sum(contest.errors_K[1] < contest.errors_K[0] for contest in held)
            if wilson(better, len(held))[0] > _SHIFTED:
                return [
                    f"labels that are shifted: the {which} class's name fits better in {better} of {len(held)} images"
                ]
        return []


def _spread(recipe: Recipe, run: Run, class_ids: list[str]) -> list[dict[str, Any]]:
    """Rows of images to try, class by class in turn: of a hundred classes at most, the same for the same seed."""
    order = random.Random(f"{recipe.seed}/classes").sample(class_ids, min(len(class_ids), WANTED))
    train = pc.field("split") == recipe.data.train
    rows = manifest.dataset(run).to_table(
        columns=["image_id", "uri", "class_id"], filter=train & pc.field("class_id").isin(order)
    )
    chosen = subset.choose(rows, math.ceil(4 * WANTED / len(order)), recipe.seed).sort_by("image_id").to_pylist()
    by_class: dict[str, list[dict[str, Any]]] = {class_id: [] for class_id in order}
    for row in chosen:
        by_class[row["class_id"]].append(row)
    most = max(map(len, by_class.values()), default=0)
    return [rows[turn] for turn in range(most) for rows in by_class.values() if turn < len(rows)][: 4 * WANTED]
