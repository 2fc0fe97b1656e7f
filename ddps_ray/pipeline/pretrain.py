"""Pretraining of a small latent diffusion model by Ray Train; a killed run goes on from its last checkpoint."""

import json
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch
from PIL import Image, ImageOps
from torch import nn

from ddps_ray import manifest, schemas, storage
from ddps_ray.config import Model, Recipe
from ddps_ray.console import Ticker, say
from ddps_ray.diffusion import checkpoint
from ddps_ray.diffusion.pretraining import Pretraining, Progress
from ddps_ray.diffusion.saving import save
from ddps_ray.diffusion.staging import MODEL_FOLDER, PRETRAINED
from ddps_ray.errors import BadImage, UserError
from ddps_ray.pipeline import cluster, trainers, trial
from ddps_ray.sources.reading import attempt

STAGE = "pretrain"
_RESULT = "result.json"
_SAID_EVERY, _AT_ONCE = 50, 5
"""Steps from one line to the next, and from one look at the clock to the next."""


def run(recipe: Recipe) -> None:
    """Trains the model on the training split and puts it into the run directory.

    Raises:
        UserError: The data set is not indexed, or has no usable image or no such split.
    """
    run = storage.Run(recipe.run_dir)
    manifest.indexed(run, recipe.data.train)
    settings = recipe.pretrain
    if run.claim(STAGE, _settings(recipe)):
        if _is_whole(recipe, run):
            say(f"pretrain: already finished: {run.path(MODEL_FOLDER)}")
            return
        say("pretrain: it was finished, but its files are gone or damaged: training it again")
        run.reopen(STAGE)
    say(f"pretrain: VAE {settings.vae_steps} steps, U-Net {settings.unet_steps} steps → {run.path(MODEL_FOLDER)}")
    cluster.connect(recipe)
    trainers.fit(_train, {"recipe": recipe}, run, STAGE, settings.workers, recipe)
    run.finish(STAGE, json.loads(storage.read_bytes(run.path(STAGE, _RESULT))))
    say(f"pretrain: the model is in {run.path(MODEL_FOLDER)}")
    _try(recipe)


def _try(recipe: Recipe) -> None:
    """Says whether what was trained is a judge; what follows from it is stage `score`'s to say."""
    gpus = float(cluster.trains_on_gpus(recipe))
    verdict = trial.verdict(recipe.model_copy(update={"model": _made(recipe)}), gpus, cluster.cores())
    say(f"pretrain: {verdict.line()}")
    if not verdict.is_judge:
        say(f"pretrain: warning: {verdict.reason()}")


def _made(recipe: Recipe) -> Model:
    """The recipe's model section for what this stage makes, whichever model the recipe scores with."""
    return recipe.model.model_copy(update={"path": PRETRAINED, "revision": None})


def _is_whole(recipe: Recipe, run: storage.Run) -> bool:
    try:
        checkpoint.load(checkpoint.locate(_made(recipe), run.path(MODEL_FOLDER)), "float32", torch.device("cpu"))
    except UserError:
        return False
    return True


def _settings(recipe: Recipe) -> dict[str, object]:
    asked = recipe.score
    return {
        **recipe.pretrain.model_dump(mode="json", exclude={"checkpoint_every"}),
        "timesteps": list(asked.timesteps),
        "prompt": asked.prompt,
        "null_prompt": asked.null_prompt,
        "split": recipe.data.train,
    }


def _train(recipe: Recipe) -> None:
    """What each worker does: load its share of the images, train, and report a checkpoint now and then."""
    rank, world = (share := trainers.share()).rank, share.world
    device = trainers.device()
    run = storage.Run(recipe.run_dir)
    images_NCHW, labels_N, prompts = _share(recipe, run, rank, world)
    training = Pretraining(
        recipe.pretrain,
        recipe.score.timesteps,
        prompts,
        recipe.score.null_prompt,
        images_NCHW,
        labels_N,
        device=device,
        rank=rank,
        wrap=_prepare if world > 1 else lambda module: module,
    )
    losses: dict[str, float] = {}
    if (saved := trainers.saved_state(run, STAGE)) is not None:
        training.restore(saved)
        losses |= saved.get("losses", {})  # of what is not trained again
    while training.phase is not None:
        progress = _advance(training, recipe.pretrain.checkpoint_every, speak=rank == 0)
        losses[f"{progress.phase}_loss"] = progress.loss
        metrics = {"phase": progress.phase, "step": progress.step, "loss": progress.loss}
        trainers.report(metrics, None if rank else training.state() | {"losses": losses})
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            save(training.finish(), Path(folder))
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                storage.write_bytes(run.path(MODEL_FOLDER, file.relative_to(folder).as_posix()), file.read_bytes())
        storage.write_json(run.path(STAGE, _RESULT), losses)


def _prepare(module: nn.Module) -> nn.Module:
    return trainers.prepare(module, find_unused_parameters=True)


def _advance(training: Pretraining, steps: int, *, speak: bool, seconds: float = 10.0) -> Progress:
    """Trains up to the next checkpoint, with a line every `_SAID_EVERY` steps, or at intervals where they are slow.

    Args:
        training: The training.
        steps: How many steps at most.
        speak: Whether this worker says the lines.
        seconds: The interval.

    Returns:
        Where it stands, with the mean loss of the last `_SAID_EVERY` steps of these, whatever was said when.
    """
    phase, ticker = training.phase, Ticker(seconds)
    last: deque[float] = deque(maxlen=_SAID_EVERY)
    unsaid: list[float] = []
    while True:
        before = training.done
        progress = training.advance(min(steps, _AT_ONCE))
        steps -= _AT_ONCE
        of_each = [progress.loss] * (progress.step - before)
        last += of_each
        unsaid += of_each
        over = steps <= 0 or training.phase != phase
        if speak and (over or progress.step % _SAID_EVERY == 0 or ticker.due()):
            say(f"pretrain: {progress.phase} step {progress.step} of {progress.steps}, loss {fmean(unsaid):.4f}")
            unsaid = []
        if over:
            return replace(progress, loss=fmean(last))


def _share(recipe: Recipe, run: storage.Run, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """This worker's images (uint8, square), the number of each one's class, and the prompts of all classes."""
    rows = manifest.dataset(run).to_table(filter=pads.field("split") == recipe.data.train).sort_by("image_id")
    classes = (
        rows.select(["label", "class_text"])
        .group_by("label", use_threads=False)
        .aggregate([("class_text", "min")])
        .sort_by("label")
    )
    prompts = [recipe.score.prompt.replace("{}", text) for text in classes.column("class_text_min").to_pylist()]
    mine = rows.take(list(range(rank, rows.num_rows, world)))
    results = attempt(mine.column("uri").to_pylist(), _squared(recipe.pretrain.size))
    bad = [
        (row, str(result))
        for row, result in zip(mine.to_pylist(), results, strict=True)
        if isinstance(result, BadImage)
    ]
    _quarantine(run, bad, rank)
    good = [place for place, result in enumerate(results) if not isinstance(result, BadImage)]
    if not good:
        raise UserError(f"{run.path('manifest')}: not one of {mine.num_rows} training images can be used")
    images_NCHW = torch.stack([results[place] for place in good])  # type: ignore[misc]
    known = classes.column("label").combine_chunks()  # labels that the data set gives may have gaps
    numbers = pc.index_in(mine.column("label"), value_set=known)
    return images_NCHW, torch.tensor(numbers.to_pylist())[good], prompts


def _squared(size: int) -> Callable[[Image.Image], torch.Tensor]:
    def work(image: Image.Image) -> torch.Tensor:
        square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
        return pixels.view(size, size, 3).permute(2, 0, 1).contiguous()

    return work


def _quarantine(run: storage.Run, bad: list[tuple[dict[str, Any], str]], rank: int) -> None:
    if not bad:
        return
    columns = {
        "image_id": [row["image_id"] for row, _ in bad],
        "uri": [row["uri"] for row, _ in bad],
        "stage": [STAGE] * len(bad),
        "reason": [reason for _, reason in bad],
    }
    class_ids = [row["class_id"] for row, _ in bad]
    trainers.write_quarantine(run, f"{STAGE}-{rank}", schemas.table(columns, schemas.QUARANTINE), class_ids)
