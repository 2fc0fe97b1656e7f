"""Pretraining of a small latent diffusion model by Ray Train; a killed run goes on from its last checkpoint."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import ray.train.torch
import torch
from PIL import Image, ImageOps
from ray import train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from torch import nn

from ddps_ray import schemas, storage
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.diffusion.pretraining import Pretraining, Progress
from ddps_ray.diffusion.saving import save
from ddps_ray.errors import BadImage, UserError
from ddps_ray.pipeline import cluster
from ddps_ray.pipeline.score import PRETRAINED
from ddps_ray.sources.reading import attempt

STAGE = "pretrain"
_STATE = "state.pt"
_SAID_EVERY = 50
_FAILURES = 3


def run(recipe: Recipe) -> None:
    """Trains the model on the training split and puts it into the run directory.

    Raises:
        UserError: The data set is not indexed, or has no usable image.
    """
    run = storage.Run(recipe.run_dir)
    run.require("index", "index")
    settings = recipe.pretrain
    if run.claim(STAGE, _settings(recipe)):
        say(f"pretrain: already finished: {run.path(PRETRAINED)}")
        return
    say(f"pretrain: VAE {settings.vae_steps} steps, U-Net {settings.unet_steps} steps → {run.path(PRETRAINED)}")
    cluster.connect(recipe)
    gpu = cluster.gpus() > 0
    trainer = ray.train.torch.TorchTrainer(
        _train,
        train_loop_config={"recipe": recipe.model_dump(mode="json")},
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=gpu),
        run_config=RunConfig(
            name="train",
            storage_path=run.path(STAGE),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=_FAILURES),
        ),
    )
    metrics = trainer.fit().metrics or {}
    run.finish(STAGE, {"loss": metrics.get("loss"), "model": PRETRAINED})
    say(f"pretrain: loss {metrics.get('loss', float('nan')):.4f}, model in {run.path(PRETRAINED)}")


def _settings(recipe: Recipe) -> dict[str, object]:
    asked = recipe.score
    return {
        **recipe.pretrain.model_dump(mode="json", exclude={"checkpoint_every"}),
        "timesteps": list(asked.timesteps),
        "prompt": asked.prompt,
        "null_prompt": asked.null_prompt,
        "split": recipe.data.train,
    }


def _train(config: dict[str, dict[str, object]]) -> None:
    """What each worker does: load its share of the images, train, and report a checkpoint now and then."""
    recipe = Recipe.model_validate(config["recipe"])
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, cluster.cores() // context.get_local_world_size()))
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
    if (saved := train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            training.restore(torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True))
    while training.phase is not None:
        _report(_advance(training, recipe.pretrain.checkpoint_every, speak=rank == 0), training, rank)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            save(training.finish(), Path(folder))
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                storage.write_bytes(run.path(PRETRAINED, file.relative_to(folder).as_posix()), file.read_bytes())


def _prepare(module: nn.Module) -> nn.Module:
    prepared: nn.Module = ray.train.torch.prepare_model(
        module, parallel_strategy_kwargs={"find_unused_parameters": True}
    )
    return prepared


def _advance(training: Pretraining, steps: int, *, speak: bool) -> Progress:
    """Trains up to the next checkpoint, with a line every `_SAID_EVERY` steps."""
    phase = training.phase
    while True:
        progress = training.advance(min(steps, _SAID_EVERY))
        steps -= _SAID_EVERY
        if speak:
            say(f"pretrain: {progress.phase} step {progress.step} of {progress.steps}, loss {progress.loss:.4f}")
        if steps <= 0 or training.phase != phase:
            return progress


def _report(progress: Progress, training: Pretraining, rank: int) -> None:
    metrics = {"phase": progress.phase, "step": progress.step, "loss": progress.loss}
    if rank != 0:
        train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(training.state(), Path(folder) / _STATE)
        train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder))


def _share(recipe: Recipe, run: storage.Run, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """This worker's images (uint8, square), their labels, and all class prompts by label."""
    filesystem, path = storage.open_uri(run.path("manifest"))
    manifest = pads.dataset(path, filesystem=filesystem, format="parquet")
    rows = manifest.to_table(filter=pads.field("split") == recipe.data.train).sort_by("image_id")
    classes = rows.select(["label", "class_text"]).group_by("label").aggregate([("class_text", "min")]).sort_by("label")
    prompts = [recipe.score.prompt.format(text) for text in classes.column("class_text_min").to_pylist()]
    mine = rows.take(list(range(rank, rows.num_rows, world)))
    results = attempt(mine.column("uri").to_pylist(), _squared(recipe.pretrain.size))
    _quarantine(run, mine, results, rank)
    good = [place for place, result in enumerate(results) if not isinstance(result, BadImage)]
    if not good:
        raise UserError(f"{run.path('manifest')}: not one of {mine.num_rows} training images can be used")
    images_NCHW = torch.stack([results[place] for place in good])  # type: ignore[misc]
    return images_NCHW, torch.tensor(mine.column("label").to_pylist())[good], prompts


def _squared(size: int) -> Callable[[Image.Image], torch.Tensor]:
    def work(image: Image.Image) -> torch.Tensor:
        square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
        return pixels.view(size, size, 3).permute(2, 0, 1).contiguous()

    return work


def _quarantine(run: storage.Run, rows: pa.Table, results: list[torch.Tensor | BadImage], rank: int) -> None:
    bad = [(place, str(result)) for place, result in enumerate(results) if isinstance(result, BadImage)]
    if not bad:
        return
    say(f"pretrain: {len(bad)} images cannot be used; the reasons are in {run.path('quarantine')}")
    chosen = rows.take([place for place, _ in bad])
    columns = {
        "image_id": chosen.column("image_id").to_pylist(),
        "uri": chosen.column("uri").to_pylist(),
        "stage": [STAGE] * len(bad),
        "reason": [reason for _, reason in bad],
    }
    table = schemas.table(columns, schemas.QUARANTINE)
    storage.write_table(run.path("quarantine", f"pretrain-{rank:05d}.parquet"), table)
