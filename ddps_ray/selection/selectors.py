"""The ways to choose a class's patches, each behind the same small interface and found by name in `SELECTORS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ddps_ray.selection.budget import Budget
from ddps_ray.selection.candidates import Box, Candidates
from ddps_ray.selection.clustering import cluster
from ddps_ray.selection.seeding import seeded


@dataclass(frozen=True)
class Choice:
    """One chosen patch.

    Attributes:
        index: Its image's index among the candidates.
        box: The patch in pixels of the scaled image.
        cluster: Rank of its cluster by median typicality, 0 the most typical; None if the selector does not cluster.
        cluster_typicality: Median typicality of its cluster; None likewise.
        rank: Rank inside the cluster by distance to the centroid, 0 the nearest; None likewise.
        reason: Why it was chosen, in words.
    """

    index: int
    box: Box
    cluster: int | None
    cluster_typicality: float | None
    rank: int | None
    reason: str


class Selector(Protocol):
    """Chooses from one class; what does not depend on the IPC is done once, when it is built."""

    def choose(self, budget: Budget) -> list[Choice]:
        """Returns `budget.patches` patches of different images, best first; there must be so many candidates."""
        ...


class DDPS:
    """Patches near the centroids of the clusters of highest median typicality, then a fill by typicality."""

    def __init__(self, candidates: Candidates, centres: int, seed: int) -> None:
        """Clusters the class; see `clustering.cluster`."""
        self._candidates = candidates
        self._clustering = cluster(candidates, centres, seed)
        self._by_typicality: list[int] = np.argsort(-candidates.typicality, kind="stable").tolist()

    def choose(self, budget: Budget) -> list[Choice]:
        """Takes `per_cluster` from each top cluster in turn, then the unused of highest T (paper, suppl. section 5)."""
        top = self._clustering.members[: budget.top_clusters]
        nearest = [index for members in top for index in members[: budget.per_cluster]]
        used = set(nearest)
        unused = [index for index in self._by_typicality if index not in used]
        chosen = [self._choice(index, "near the centroid of a top cluster") for index in nearest]
        fill = [self._choice(index, "fill: highest typicality of the unused") for index in unused]
        return (chosen + fill)[: budget.patches]

    def _choice(self, index: int, why: str) -> Choice:
        place, rank = int(self._clustering.cluster[index]), int(self._clustering.rank[index])
        median = self._clustering.medians[place]
        return Choice(index, self._candidates.box(index), place, median, rank, why)


class Random:
    """A random patch of random images: same size, same number, no regard to typicality. What selection has to beat."""

    def __init__(self, candidates: Candidates, centres: int, seed: int) -> None:
        """Draws an order of the images, and a patch in each, for all budgets; it needs no centres."""
        rng = seeded(seed, candidates.class_id)
        self._chosen = []
        for index in rng.sample(range(len(candidates)), len(candidates)):
            (_, _, width, height), (wide, high) = candidates.box(index), candidates.scaled[index].tolist()
            box = (rng.randint(0, wide - width), rng.randint(0, high - height), width, height)
            self._chosen.append(Choice(index, box, None, None, None, "random"))

    def choose(self, budget: Budget) -> list[Choice]:
        """Takes the first of the random order."""
        return self._chosen[: budget.patches]


SELECTORS: dict[str, Callable[[Candidates, int, int], Selector]] = {"ddps": DDPS, "random": Random}
"""By the name in the recipe: builds a selector from candidates, M and the set's seed."""
