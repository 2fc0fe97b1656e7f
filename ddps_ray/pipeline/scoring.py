"""The actors of stage `score`: each holds a scorer, and turns loaded rows into score rows."""

import logging
import os
import time

import numpy as np
import pyarrow as pa
import torch

from ddps_ray import schemas, score_rows
from ddps_ray.config import Recipe
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.micro_batch import gpu_failed
from ddps_ray.diffusion.scorer import Item, Scored, Scorer
from ddps_ray.errors import UserError
from ddps_ray.pipeline.tally import SCORED, Tally
from ddps_ray.strikes import Strikes


class ScoringActor:
    """Holds a scorer; turns loaded rows into score rows."""

    def __init__(self, recipe: Recipe, pretrained: str, strikes: str, threads: int) -> None:
        """Loads the model; if it cannot, the first batch says why: of a constructor that fails Ray tells at length.

        Args:
            recipe: The recipe, its model pinned.
            pretrained: Folder or URI that `model.path: pretrained` stands for.
            strikes: URI of the folder of `Strikes`.
            threads: CPU cores to take if this actor has no GPU.
        """
        self._settings = recipe.score
        self._wrong: UserError | None = None
        self._strikes, self._tally = Strikes(strikes), Tally(SCORED)
        try:
            self._scorer = _scorer(recipe, pretrained, threads)
            self._schema = schemas.scores(self._scorer.feature_size)
        except UserError as error:
            self._wrong = error

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Scores one batch of loaded rows; a row with an error, or without a finite score, becomes an error row.

        Raises:
            UserError: The model cannot be loaded.
        """
        if self._wrong is not None:
            raise self._wrong
        if rows.num_rows == 0:
            return self._schema.empty_table()
        begun = time.monotonic()
        made = self._scored(rows)
        self._tally.add(rows.num_rows, time.monotonic() - begun)
        return made

    def _scored(self, rows: pa.Table) -> pa.Table:
        loaded = rows.to_pylist()
        if reason := self._strikes.out(loaded[0]["image_id"]):
            loaded = [row | {"error": row["error"] or reason} for row in loaded]
        items = {place: _item(row) for place, row in enumerate(loaded) if row["error"] is None}
        results = dict(zip(items, self._score(list(items.values()), loaded[0]["image_id"]), strict=True))
        made = [self._row(row, results.get(place)) for place, row in enumerate(loaded)]
        return score_rows.table(made, self._scorer.feature_size)

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
        if scored is None:
            return score_rows.of(loaded)
        if not np.isfinite(scored.terms_NHW).all() or not np.isfinite(scored.dift_D).all():
            return score_rows.of(loaded | {"error": "the model gave a score that is not finite"})
        patch, factor, settings = scored.patch, self._scorer.factor, self._settings
        height, width = scored.map_HW.shape
        return score_rows.of(
            loaded,
            left=patch.column * factor,
            top=patch.row * factor,
            patch_width=patch.width * factor,
            patch_height=patch.height * factor,
            typicality=patch.typicality,
            typicality_error=scored.standard_error,
            typicality_image=scored.image_typicality,
            map_width=width,
            map_height=height,
            map=scored.map_HW.ravel().astype(np.float16) if settings.store_map else None,
            timesteps=scored.timesteps_N.astype(np.int16) if settings.store_terms else None,
            terms=scored.terms_NHW.ravel().astype(np.float16) if settings.store_terms else None,
            dift=scored.dift_D.astype(np.float16),
        )


def _scorer(recipe: Recipe, pretrained: str, threads: int) -> Scorer:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(threads)
    folder = checkpoints.locate(recipe.model, pretrained)
    return Scorer(checkpoints.load(folder, recipe.model.dtype, device), recipe.score, recipe.seed)


def _item(row: dict[str, object]) -> Item:
    shape = (row["scaled_height"], row["scaled_width"], 3)
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(shape)  # type: ignore[call-overload]
    return Item(str(row["image_id"]), str(row["class_text"]), pixels)
