"""The judge proves itself before it is paid: on some images it must prefer their own class to another."""

import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path
from statistics import fmean, median
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
"""Images that are tried; four times as many where these leave open whether it is chance."""

_MOST = 4 * WANTED
_MOST_PAIRS = 10
_MOST_RIVALS = 4
_ROUND = 10
_SECONDS = 60.0
_LEAST = 20
_SHIFTED = 0.75  # of the images; where labels are in disorder, the next class's is often better than the wrong one


def examine(recipe: Recipe, folder: Path | None = None, threads: int | None = None) -> Verdict:
    """Tries the recipe's model on about a hundred images of the training split, spread over the classes.

    The images, and the classes against which each own one competes, follow from the seed and their ids. It takes about
    a minute, besides loading the model and reading the images; more only where 20 images take longer.

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
    return _Examination(recipe, run, folder, device).verdict()


def doubts(folder: Path, settings: Score, texts: Mapping[str, str]) -> list[str]:
    """Says what of model, prompts and class names can be meant, and mostly is not; see `suitability.doubts`."""
    nameless = classes.nameless(texts.values())
    found = [f"{len(nameless)} classes have names that name nothing: {nameless[0]!r} is one"] if nameless else []
    return found + suitability.doubts(folder, settings, texts)


@dataclass(frozen=True)
class _Match:
    """An image, and the names that compete on it, its own class's first."""

    image_id: str
    uri: str
    names: tuple[str, ...]


class _Examination:
    def __init__(self, recipe: Recipe, run: Run, folder: Path, device: torch.device) -> None:
        self._recipe, self._device = recipe, device
        rows = manifest.classes(run, recipe.data.train).to_pylist()
        self._texts = {row["class_id"]: row["class_text"] for row in rows}
        self._matches = _draw(recipe, run, self._texts)
        loaded = checkpoints.load(folder, recipe.model.dtype, device)
        self._cost = flops_per_image(folder, recipe.score, recipe.score.size, recipe.score.size)
        affordable = _SECONDS * REACHED[device.type == "cuda"] / (2 * WANTED * self._cost.unet / self._cost.unet_calls)
        pairs = max(1, min(recipe.score.pairs, _MOST_PAIRS, int(affordable)))
        self._contests = Contests(loaded, recipe.score, recipe.seed, pairs)
        self._factor = loaded.geometry.factor

    def verdict(self) -> Verdict:
        """Compares until it is clear, or time is up."""
        found: list[Contest] = []
        used: list[Item] = []
        looked, spent = False, 0.0
        for items, names in self._read():
            begun = time.monotonic()
            found += self._contests.hold(items, names)
            used += items
            spent += time.monotonic() - begun
            if spent > _SECONDS and len(found) >= _LEAST:
                break
            # Whoever looks often finds what he looks for: twice at most, so that a guess passes in 5 % at most.
            if len(found) >= WANTED and not looked:
                looked = True
                if self._sum(found).is_better_than_chance:
                    break
        if not found:
            raise UserError(f"data: none of {len(self._matches)} images that were tried can be used; see `ddps plan`")
        verdict = self._sum(found)
        return verdict if verdict.is_judge else replace(verdict, causes=self._causes(verdict, used))

    def _read(self) -> Iterator[tuple[list[Item], list[tuple[str, ...]]]]:
        """The images that can be used, a few at a time, as many names to each of them."""
        settings = self._recipe.score
        for _, group in groupby(self._matches, key=lambda match: len(match.names)):
            alike = list(group)
            for start in range(0, len(alike), _ROUND):
                matches = alike[start : start + _ROUND]
                read = attempt(
                    (match.uri for match in matches),
                    lambda image: imaging.scale(image, settings.size, self._factor, settings.max_aspect),
                )
                usable = [pair for pair in zip(matches, read, strict=True) if not isinstance(pair[1], BadImage)]
                items = [Item(match.image_id, match.names[0], np.asarray(image)) for match, image in usable]
                yield items, [match.names for match, _ in usable]

    def _sum(self, contests: list[Contest]) -> Verdict:
        found = [contest for contest in contests if contest.is_finite]
        outcomes = [np.sign(other - own) for own, *others in (each.errors_K for each in found) for other in others]
        cost = self._cost
        calls = cost.unet_calls * cost.total / cost.unet  # the VAE's and the feature's operations as calls of the U-Net
        return Verdict(
            images=len(found),
            broken=len(contests) - len(found),
            comparisons=len(outcomes),
            right=int(len(outcomes) + sum(outcomes)) // 2,  # of equal errors half
            timestep=self._contests.timestep,
            error=fmean(contest.middle for contest in found) if found else 1.0,
            misread=fmean(contest.misread for contest in found) if found else 1.0,
            seconds=calls * median(contest.seconds for contest in contests),
            device=self._device.type,
        )

    def _causes(self, verdict: Verdict, items: list[Item]) -> tuple[str, ...]:
        """Likely causes, in the order in which they are easily mended."""
        if verdict.is_broken:
            dtype = self._recipe.model.dtype
            remedy = "damaged weights" if dtype == "float32" else "too small a range of numbers: model.dtype=bfloat16"
            return (f"in {dtype} the model's output is not finite in {verdict.broken} images: {remedy}",)
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


def _draw(recipe: Recipe, run: Run, texts: Mapping[str, str]) -> list[_Match]:
    """Matches of a hundred classes at most, in rounds in which each class with an image left competes in a circle.

    So each is as often the own class as it is the other one, and a prompt that suits all images gains nothing.
    """
    order = random.Random(f"{recipe.seed}/classes").sample(list(texts), min(len(texts), WANTED))
    train = pc.field("split") == recipe.data.train
    rows = manifest.dataset(run).to_table(
        columns=["image_id", "uri", "class_id"], filter=train & pc.field("class_id").isin(order)
    )
    named: dict[str, list[dict[str, Any]]] = {texts[class_id]: [] for class_id in order}
    for row in subset.choose(rows, math.ceil(_MOST / len(order)), recipe.seed).sort_by("image_id").to_pylist():
        named[texts[row["class_id"]]].append(row)
    circles = list(_circles(named, recipe.seed))
    most = min(_MOST_RIVALS, max(1, math.ceil(WANTED / max(1, sum(map(len, circles))))))
    return [
        _Match(row["image_id"], row["uri"], tuple(circle[(place + step) % len(circle)] for step in range(rivals + 1)))
        for turn, circle in enumerate(circles)
        for rivals in [min(most, len(circle) - 1)]
        for place, name in enumerate(circle)
        for row in [named[name][turn]]
    ][:_MOST]


def _circles(named: Mapping[str, list[dict[str, Any]]], seed: int) -> Iterator[list[str]]:
    for turn in count():
        circle = [name for name, rows in named.items() if len(rows) > turn]
        if len(circle) < min(2, len(named)) or not circle:
            return
        random.Random(f"{seed}/{turn}").shuffle(circle)
        yield circle
