"""`ddps plan`: what scoring would take in operations, bytes, shards, GPU-hours and money; and what evaluation would.

No Ray is started, and nothing is written into the run directory. The model's weights are fetched, and run on some
images, where there is a GPU, where the model is so small that it takes no time, or where `--judge` says so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch

from ddps_ray import checks, imaging, manifest, planning_evaluation, planning_labels, shards
from ddps_ray.config import Recipe, Score
from ddps_ray.console import say
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.flops import Cost, flops_per_image, rows_per_shard, usual_seconds
from ddps_ray.diffusion.measuring import measure
from ddps_ray.diffusion.staging import MODEL_FOLDER
from ddps_ray.errors import BadImage, UserError
from ddps_ray.gpus import PEAKS
from ddps_ray.judge import WANTED, doubts, examine
from ddps_ray.quantities import amount, si
from ddps_ray.sources.reading import attempt
from ddps_ray.storage import Run

_SAMPLE = 64
_TRIAL_SECONDS = 120.0
"""The judge is tried unasked if that takes no longer here."""
_OTHER_COLUMNS = 100


@dataclass(frozen=True)
class Speed:
    """How fast the images are scored.

    Attributes:
        seconds: Of one GPU for one image.
        source: Which GPU, and how that is known.
    """

    seconds: float
    source: str


@dataclass(frozen=True)
class Sizes:
    """Sizes of some of the images.

    Attributes:
        width: Mean longer edge in pixels at which they are scored, rounded to the VAE's scale factor.
        height: Their shorter edge.
        sampled: Images that were read.
        unusable: Those among them that would go to quarantine.
    """

    width: int
    height: int
    sampled: int
    unusable: int


@dataclass(frozen=True)
class Plan:
    """What a run's scoring takes.

    Attributes:
        images: Images of the training split.
        done: Those that have a row already.
        sizes: Their sizes.
        cost: Operations an image of the mean size.
        stored: Bytes an image in the shards, before compression.
        rows_per_shard: Images in a shard.
        speed: Of the GPU.
        price: Of a GPU-hour, if it is known.
    """

    images: int
    done: int
    sizes: Sizes
    cost: Cost
    stored: int
    rows_per_shard: int
    speed: Speed
    price: float | None = None

    @property
    def hours(self) -> float:
        """GPU-hours of the images that are left."""
        return (self.images - self.done) * self.speed.seconds / 3600


def run(
    recipe: Recipe,
    gpu: str = "l4",
    price: float | None = None,
    utilisation: float = 0.35,
    judge: bool = False,
    gpus: int = 8,
) -> None:
    """Prints what scoring the images that are left and the evaluation would take, and tries the judge if that is quick.

    Where this machine has a CUDA device, that is timed, and `gpu` and `utilisation` do not count.

    Args:
        recipe: The recipe; its data set must have been indexed.
        gpu: GPU type, one of `PEAKS`.
        price: Price of a GPU-hour.
        utilisation: Share of the GPU's peak that is reached, over 0 and at most 1.
        judge: Whether the judge is tried here however long that takes, and whatever the recipe says.
        gpus: GPUs that evaluate, all of one type.

    Raises:
        UserError: An argument is impossible, the data set is not indexed, the model or the settings do not fit, a later
            stage could not do what the recipe says, a student fits into no GPU's memory, or the model is no judge of
            such images.
    """
    _check(gpu, price, utilisation, gpus)
    this = Run(recipe.run_dir)
    images = manifest.indexed(this, recipe.data.train)
    if recipe.model.path == checkpoints.PRETRAINED:
        this.require("pretrain", "pretrain")
    cuda, tried = torch.cuda.is_available(), judge or recipe.score.judge != "skip"
    folder = checkpoints.locate(recipe.model, this.path(MODEL_FOLDER), weights=False)
    geometry = checkpoints.geometry(folder)
    rows = manifest.classes(this, recipe.data.train).to_pylist()
    warnings = doubts(folder, recipe.score, {row["class_id"]: row["class_text"] for row in rows})
    sizes = _sizes(this, recipe, geometry.factor)
    cost = flops_per_image(folder, recipe.score, sizes.width, sizes.height)
    loaded, why_not = None, "that takes long on a CPU"
    if cuda or judge or (tried and WANTED * usual_seconds(cost, gpu=False) < _TRIAL_SECONDS):
        loaded, why_not = _with_weights(recipe, this, must=judge)
    if cuda and loaded:
        device = torch.device("cuda")
        seconds = measure(loaded, recipe, device, sizes.width, sizes.height)
        speed = Speed(seconds, f"{torch.cuda.get_device_name(device)}, measured here: {1 / seconds:.3g} images/s")
    else:
        speed = assumed(cost, gpu, recipe.model.dtype, utilisation)
    found, _ = shards.Footers(this.path(shards.FOLDER)).look()
    done = min(images, sum(shard.rows for shard in found))
    stored = bytes_per_image(recipe.score, sizes, geometry.factor, geometry.feature_sizes[recipe.score.dift_block])
    shard = rows_per_shard(recipe.score, speed.seconds)
    for line in table(Plan(images, done, sizes, cost, stored, shard, speed, price)):
        say(line)
    for doubt in [*warnings, *checks.check(recipe, fetch=False)]:
        say(_row("warning", doubt))
    evaluation = planning_evaluation.lines(recipe, this, gpus, utilisation)
    for name, text in chain(evaluation, planning_labels.lines(recipe, this, utilisation)):
        say(_row(name, text))
    if tried and loaded:
        _try(recipe, loaded)
    elif tried:
        say(_row("judge", f"not tried: {why_not}; `ddps score` tries it first (`ddps plan --judge` does it here)"))


def _with_weights(recipe: Recipe, this: Run, *, must: bool) -> tuple[Path | None, str]:
    """The checkpoint with its weights; where they need not be there, also None, and why they cannot be had."""
    try:
        return checkpoints.locate(recipe.model, this.path(MODEL_FOLDER)), ""
    except UserError as error:
        if must:
            raise
        return None, str(error)


def _try(recipe: Recipe, folder: Path) -> None:
    """Tries the judge on this machine, and says what comes out."""
    verdict = examine(recipe, folder)
    say(_row("judge", verdict.line()))
    if not verdict.is_judge and recipe.score.judge == "stop":
        raise UserError(verdict.reason())
    for doubt in verdict.doubts() if verdict.is_judge else [verdict.reason()]:
        say(_row("warning", doubt))


def assumed(cost: Cost, gpu: str, dtype: str, utilisation: float) -> Speed:
    """The speed of a GPU type that reaches a share of its peak."""
    half, single = PEAKS[gpu]
    peak = single if dtype == "float32" else half
    kind = "float32 without tensor cores" if dtype == "float32" else f"{dtype} on tensor cores"
    return Speed(cost.total / (peak * 1e12 * utilisation), f"{gpu} at {utilisation:.0%} of {peak:g} TFLOP/s ({kind})")


def bytes_per_image(settings: Score, sizes: Sizes, factor: int, dift_size: int) -> int:
    """Bytes of a row of `schemas.scores`, uncompressed."""
    positions = (sizes.width // factor) * (sizes.height // factor)
    maps = int(settings.store_map) + settings.pairs * int(settings.store_terms)
    return 2 * (maps * positions + settings.pairs * int(settings.store_terms) + dift_size) + _OTHER_COLUMNS


def table(plan: Plan) -> Iterator[str]:
    """Yields the lines to print."""
    yield from (_row(name, text) for name, text in _rows(plan))


def _row(name: str, text: str) -> str:
    return f"{name.ljust(len('U-Net calls'))}  {text}"


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    left, sizes, cost = plan.images - plan.done, plan.sizes, plan.cost
    yield "images", f"{plan.images:,}: {plan.done:,} scored, {left:,} left"
    bad = f", of which {sizes.unusable} cannot be used" if sizes.unusable else ""
    yield "size", f"{sizes.width} × {sizes.height} px, mean of {sizes.sampled} images sampled{bad}"
    yield "U-Net calls", f"{cost.unet_calls} an image, {cost.unet_calls * left:,} left"
    parts = f"U-Net {si(cost.unet)}, VAE {si(cost.vae)}, DIFT {si(cost.dift)}"
    yield "operations", f"{si(cost.total)}FLOP an image ({parts}), {si(cost.total * left)}FLOP left"
    yield "written", f"{si(plan.stored)}B an image, {si(plan.stored * left)}B left, before compression"
    yield "shards", f"{math.ceil(left / plan.rows_per_shard):,} left, of {plan.rows_per_shard:,} images each"
    yield "time", f"{amount(plan.hours)} GPU-hours left on {plan.speed.source}"
    if plan.price is not None:
        yield "cost", f"{amount(plan.hours * plan.price)} left, at {plan.price:g} a GPU-hour"


def _check(gpu: str, price: float | None, utilisation: float, gpus: int) -> None:
    if gpu not in PEAKS:
        raise UserError(f"--gpu {gpu}: not a type known here; known are {', '.join(PEAKS)}")
    if not 0 < utilisation <= 1:
        raise UserError(f"--utilisation {utilisation:g}: give a share over 0 and at most 1")
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price {price:g}: give a number of at least 0")
    if gpus < 1:
        raise UserError(f"--gpus {gpus}: give a number of at least 1")


def _sizes(this: Run, recipe: Recipe, factor: int) -> Sizes:
    """Reads some images, spread over the manifest, for their sizes."""
    train = pc.field("split") == recipe.data.train
    uris = manifest.dataset(this).to_table(columns=["uri"], filter=train).column("uri")
    chosen = np.unique(np.linspace(0, len(uris) - 1, min(_SAMPLE, len(uris))).round().astype(int))
    settings = recipe.score
    read = attempt(
        uris.take(chosen).to_pylist(),
        lambda image: imaging.scaled_size(*image.size, settings.size, factor, settings.max_aspect),
    )
    longer = [max(size) for size in read if not isinstance(size, BadImage)]
    if not longer:
        raise UserError(f"data: none of the {len(read)} images that were sampled can be used; the first: {read[0]}")
    mean = round(float(np.mean(longer)) / factor) * factor
    return Sizes(mean, settings.size, len(read), len(read) - len(longer))
