"""A driver of stage `score` whose actors note each image that they have scored: how many were scored twice?"""

import os
import sys
import time
from pathlib import Path

import pyarrow as pa

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.pipeline import score
from ddps_ray.pipeline.scoring import ScoringActor

NOTES = "notes"
"""Folder beside the run directory."""


class NotingActor(ScoringActor):
    """Scores, and writes the ids of each batch with the time into a file of its process."""

    def __init__(self, recipe: Recipe, pretrained: str, strikes: str, threads: int) -> None:
        """Loads the model; see `ScoringActor`."""
        super().__init__(recipe, pretrained, strikes, threads)
        self._notes = Path(recipe.run_dir).parent / NOTES

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Scores a batch; see `ScoringActor`."""
        scored = super().__call__(rows)
        with (self._notes / f"{os.getpid()}.txt").open("a") as file:
            file.writelines(f"{time.time()} {image_id}\n" for image_id in scored["image_id"].to_pylist())
        return scored


if __name__ == "__main__":
    from tests.faults import driver  # by its own name, so that workers find the class

    score.run(config.load(sys.argv[1]), actor=driver.NotingActor)
