"""What the workers of stage `score` do: decode images, hold a scorer, arrange rows for the shards."""

import logging
import os

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ddps_ray import imaging, schemas
from ddps_ray.config import Recipe, Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.micro_batch import gpu_failed
from ddps_ray.diffusion.scorer import Item, Scored, Scorer
from ddps_ray.errors import BadImage
from ddps_ray.pipeline.cluster import answering
from ddps_ray.sources.reading import attempt
from ddps_ray.strikes import Strikes

_PIXELS = pa.schema([("pixels", pa.large_binary()), ("error", pa.string())])
_SIZES = ("width", "height", "scaled_width", "scaled_height")


def load(rows: pa.Table, settings: Score, factor: int) -> pa.Table:
    """Adds to manifest rows the scaled pixels and sizes, or the reason why there are none.

    Args:
        rows: Manifest rows.
        settings: The recipe's section.
        factor: Pixels of the image's side to one latent position.

    Raises:
        UserError: The store does not answer, although its client has tried again and again.
    """

    def prepare(image: Image.Image) -> tuple[Image.Image, Image.Image]:
        return image, imaging.scale(image, settings.size, factor, settings.max_aspect)

    with answering():
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


def arrange(rows: pa.Table) -> pa.Table:
    """Sorts the rows of a shard by class, so that a class's rows lie in few row groups."""
    return rows.sort_by([("class_id", "ascending"), ("image_id", "ascending")])


class ScoringActor:
    """Holds a scorer; turns loaded rows into score rows."""

    def __init__(self, recipe: Recipe, pretrained: str, strikes: str, threads: int) -> None:
        """Loads the model.

        Args:
            recipe: The recipe, its model pinned.
            pretrained: Folder or URI that `model.path: pretrained` stands for.
            strikes: URI of the folder of `Strikes`.
            threads: CPU cores to take if this actor has no GPU.
        """
        self._settings = recipe.score
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(threads)
        folder = checkpoints.locate(recipe.model, pretrained)
        loaded = checkpoints.load(folder, recipe.model.dtype, device)
        self._scorer = Scorer(loaded, recipe.score, recipe.seed)
        self._schema = schemas.scores(self._scorer.feature_size)
        self._strikes = Strikes(strikes)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Scores one batch of loaded rows; a row with an error, or without a finite score, becomes an error row."""
        if rows.num_rows == 0:
            return self._schema.empty_table()
        loaded = rows.to_pylist()
        if reason := self._strikes.out(loaded[0]["image_id"]):
            loaded = [row | {"error": row["error"] or reason} for row in loaded]
        items = {place: _item(row) for place, row in enumerate(loaded) if row["error"] is None}
        results = dict(zip(items, self._score(list(items.values()), loaded[0]["image_id"]), strict=True))
        made = [self._row(row, results.get(place)) for place, row in enumerate(loaded)]
        return schemas.table({name: [row.get(name) for row in made] for name in self._schema.names}, self._schema)

    def _score(self, items: list[Item], batch: str) -> list[Scored]:
        """Scores images; after an error of the GPU, in whose process nothing works any more, Ray replaces the actor."""
        try:
            return self._scorer.score(items)
        except RuntimeError as error:
            if not gpu_failed(error):
                raise
            self._strikes.add(batch)
            logging.getLogger(__name__).error("the GPU failed, Ray replaces this actor: %s", error)
            os._exit(1)

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
