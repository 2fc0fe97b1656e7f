"""Stage I as a Ray Data job: manifest → decode on CPUs → scorer actors → Parquet shards, committed one by one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import ray
import torch
from PIL import Image
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from ddps_ray import imaging, schemas, storage
from ddps_ray.config import Recipe, Score
from ddps_ray.console import say
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.scorer import Item, Scored, Scorer, check
from ddps_ray.errors import BadImage
from ddps_ray.pipeline import cluster
from ddps_ray.pipeline.progress import Heartbeat
from ddps_ray.sources.reading import attempt

STAGE = "score"
MODEL_FOLDER = "pretrain/model"
"""Where `ddps pretrain` puts its model inside a run directory."""

_PIXELS = pa.schema([("pixels", pa.large_binary()), ("error", pa.string())])
_SIZES = ("width", "height", "scaled_width", "scaled_height")


def run(recipe: Recipe) -> None:
    """Scores every image of the training split that has no score yet.

    Raises:
        UserError: The model or the settings do not fit, or the data set is not indexed.
    """
    run = storage.Run(recipe.run_dir)
    indexed = run.require("index", "index")
    if recipe.model.path == checkpoints.PRETRAINED:
        run.require("pretrain", "pretrain")
    folder = checkpoints.locate(recipe.model, run.path(MODEL_FOLDER))
    geometry = checkpoints.geometry(folder)
    check(geometry, recipe.score)
    begun = any(True for _ in storage.list_files(run.path("scores")))
    if run.claim(STAGE, _settings(recipe, folder), begun=begun):
        say(f"score: already finished: {_described(run.require(STAGE, 'score'))} in {run.path('scores')}")
        return
    total = indexed["splits"][recipe.data.train]
    say(f"score: {total} images, N = {recipe.score.pairs}, model {recipe.model.path} → {run.path('scores')}")
    cluster.connect(recipe)
    with Heartbeat("score", run.path("scores"), total):
        _execute(recipe, run, geometry)
    summary = ray.get(_conclude.remote(run.uri))
    if summary["images"] != total:
        raise RuntimeError(f"{summary['images']} of {total} images have a row in {run.path('scores')}")
    run.finish(STAGE, summary)
    say(f"score: {_described(summary)} in {run.path('scores')}")


def _settings(recipe: Recipe, folder: Path) -> dict[str, object]:
    return {
        "seed": recipe.seed,
        "weights": checkpoints.fingerprint(folder),
        "dtype": recipe.model.dtype,
        "split": recipe.data.train,
        **recipe.score.model_dump(mode="json", exclude=set(Score.RUNTIME)),
    }


def _described(summary: dict[str, int]) -> str:
    return f"{summary['scored']} images scored, {summary['quarantined']} in quarantine"


def _execute(recipe: Recipe, run: storage.Run, geometry: checkpoints.Geometry) -> None:
    settings = recipe.score
    context = DataContext.get_current()
    filesystem, saved = storage.open_uri(run.path("checkpoints", STAGE))
    context.checkpoint_config = CheckpointConfig(
        "image_id", saved, delete_checkpoint_on_success=False, override_filesystem=filesystem
    )
    try:
        filesystem, _ = storage.open_uri(run.path("manifest"))
        listed = storage.list_files(run.path("manifest"))
        files = [file.path for file in listed if file.base_name.rpartition("-")[0] == recipe.data.train]
        images = ray.data.read_parquet(files, filesystem=filesystem)
        blocks = images.repartition(target_num_rows_per_block=settings.rows_per_shard)
        loaded = blocks.map_batches(
            _load,
            batch_size=settings.batch,
            batch_format="pyarrow",
            fn_kwargs={"settings": settings, "factor": geometry.factor},
        )
        scored = loaded.map_batches(
            ScoringActor,
            batch_size=settings.batch,
            batch_format="pyarrow",
            **_actors(recipe, run.path(MODEL_FOLDER)),
        )
        filesystem, target = storage.open_uri(run.path("scores"))
        schema = schemas.scores(geometry.feature_sizes[settings.dift_block])
        scored.write_parquet(target, filesystem=filesystem, schema=schema, compression="zstd")
    finally:
        context.checkpoint_config = None


def _actors(recipe: Recipe, pretrained: str) -> dict[str, object]:
    settings = recipe.score
    available = cluster.gpus()
    gpus = settings.gpus if settings.gpus is not None else float(available > 0)
    actors = settings.actors or (max(1, int(available // gpus)) if gpus else 1)
    least, most = (actors, actors) if isinstance(actors, int) else actors
    # Reading, writing and, in a resumed run, Ray's id filter want a CPU each, or the job would wait for ever.
    cpus = 0 if gpus or ray.cluster_resources().get("CPU", 0) < most + 2 else 1
    threads = max(1, cluster.cores() // most)
    return {
        "compute": ActorPoolStrategy(min_size=least, max_size=most),
        "num_gpus": gpus,
        "num_cpus": cpus,
        "fn_constructor_kwargs": {"recipe": recipe, "pretrained": pretrained, "threads": threads},
    }


def _load(rows: pa.Table, settings: Score, factor: int) -> pa.Table:
    """Adds to manifest rows the scaled pixels and sizes, or the reason why there are none."""

    def prepare(image: Image.Image) -> tuple[Image.Image, Image.Image]:
        return image, imaging.scale(image, settings.size, factor, settings.max_aspect)

    results = attempt(rows.column("uri").to_pylist(), prepare)
    columns: dict[str, list[object]] = {name: [] for name in (*_PIXELS.names, *_SIZES)}
    for result in results:
        bad = isinstance(result, BadImage)
        columns["error"].append(str(result) if bad else None)
        columns["pixels"].append(None if isinstance(result, BadImage) else result[1].tobytes())
        sizes = [None] * 4 if isinstance(result, BadImage) else [*result[0].size, *result[1].size]
        for name, size in zip(_SIZES, sizes, strict=True):
            columns[name].append(size)
    for field in _PIXELS:
        rows = rows.append_column(field, pa.array(columns[field.name], field.type))
    for name in _SIZES:
        rows = rows.append_column(name, pa.array(columns[name], pa.int32()))
    return rows


class ScoringActor:
    """Holds a scorer; turns loaded rows into score rows."""

    def __init__(self, recipe: Recipe, pretrained: str, threads: int) -> None:
        """Loads the model onto this actor's GPU, or, if there is none, the CPU, of which it takes `threads` cores."""
        self._settings = recipe.score
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(threads)
        folder = checkpoints.locate(recipe.model, pretrained)
        loaded = checkpoints.load(folder, recipe.model.dtype, device)
        self._scorer = Scorer(loaded, recipe.score, recipe.seed)
        self._schema = schemas.scores(self._scorer.feature_size)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Scores one batch of loaded rows; a row with an error, or without a finite score, becomes an error row."""
        if rows.num_rows == 0:
            return self._schema.empty_table()
        loaded = rows.to_pylist()
        items = {place: _item(row) for place, row in enumerate(loaded) if row["error"] is None}
        results = dict(zip(items, self._scorer.score(list(items.values())), strict=True))
        made = [self._row(row, results.get(place)) for place, row in enumerate(loaded)]
        return schemas.table({name: [row.get(name) for row in made] for name in self._schema.names}, self._schema)

    def _row(self, loaded: dict[str, object], scored: Scored | None) -> dict[str, object]:
        row = {name: loaded[name] for name in ("image_id", "uri", "class_id", "label", "error", *_SIZES)}
        if scored is None:
            return row
        if not np.isfinite(scored.terms_NHW).all() or not np.isfinite(scored.dift_D).all():
            return row | {"error": "the model gave a score that is not finite"}
        patch, factor, settings = scored.patch, self._scorer.factor, self._settings
        height, width = scored.map_HW.shape
        return row | {
            "left": patch.column * factor,
            "top": patch.row * factor,
            "patch_width": patch.width * factor,
            "patch_height": patch.height * factor,
            "typicality": patch.typicality,
            "typicality_image": scored.typicality,
            "map_width": width,
            "map_height": height,
            "map": scored.map_HW.ravel().astype(np.float16) if settings.store_map else None,
            "timesteps": scored.timesteps_N.astype(np.int16) if settings.store_terms else None,
            "terms": scored.terms_NHW.ravel().astype(np.float16) if settings.store_terms else None,
            "dift": scored.dift_D.astype(np.float16),
        }


def _item(row: dict[str, object]) -> Item:
    shape = (row["scaled_height"], row["scaled_width"], 3)
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(shape)  # type: ignore[call-overload]
    return Item(str(row["image_id"]), str(row["class_text"]), pixels)


@ray.remote(num_cpus=0)
def _conclude(run_uri: str) -> dict[str, int]:
    """Counts the score rows and writes those with an error into quarantine."""
    run = storage.Run(run_uri)
    filesystem, path = storage.open_uri(run.path("scores"))
    rows = pads.dataset(path, filesystem=filesystem, format="parquet")
    bad = rows.to_table(["image_id", "uri", "error"], filter=~pads.field("error").is_null()).sort_by("image_id")
    columns = {
        "image_id": bad.column("image_id").to_pylist(),
        "uri": bad.column("uri").to_pylist(),
        "stage": [STAGE] * bad.num_rows,
        "reason": bad.column("error").to_pylist(),
    }
    storage.write_table(run.path("quarantine", "score.parquet"), schemas.table(columns, schemas.QUARANTINE))
    images = rows.count_rows()
    return {"images": images, "scored": images - bad.num_rows, "quarantined": bad.num_rows}
