"""Scoring by a constant in place of the diffusion model: the bookkeeping is left, which `ddps bench` measures."""

import sys
from collections.abc import Sequence

import numpy as np
import ray

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.diffusion.scorer import Item, Scored
from ddps_ray.diffusion.typicality import Patch
from ddps_ray.pipeline import score
from ddps_ray.pipeline.scoring import ScoringActor


class ConstantScorer:
    """Gives every image the same score, in the shapes of a model."""

    def __init__(self, recipe: Recipe, factor: int, feature_size: int) -> None:
        """Takes the shapes: pixels to a latent position, and channels of the feature."""
        self.factor, self.feature_size = factor, feature_size
        self._side, self._pairs = recipe.score.size // factor, recipe.score.pairs

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """One result an item."""
        terms_NHW = np.zeros((self._pairs, self._side, self._side), np.float32)
        patch = Patch(0, 0, self._side, self._side, 0.0)
        steps_N, dift_D = np.zeros(self._pairs, np.int64), np.ones(self.feature_size, np.float32)
        return [Scored(patch, 0.0, terms_NHW, steps_N, dift_D) for _ in items]


class ConstantActor(ScoringActor):
    """A scoring actor without a diffusion model at work."""

    def __init__(self, recipe: Recipe, pretrained: str, strikes: str, threads: int) -> None:
        """Loads the model for its shapes only; see `ScoringActor`."""
        super().__init__(recipe, pretrained, strikes, threads)
        self._scorer = ConstantScorer(recipe, self._scorer.factor, self._scorer.feature_size)  # type: ignore[assignment]


def main(path: str) -> None:
    """Scores a recipe's images by a constant, and says how much Ray spilled."""
    from ddps_ray.pipeline.constant import ConstantActor  # by the module's own name, where workers find it

    score.run(config.load(path), actor=ConstantActor)
    summary = ray._private.internal_api.memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    say("".join(line for line in summary.splitlines() if "pill" in line) or "spilled: nothing")


if __name__ == "__main__":
    main(sys.argv[1])
