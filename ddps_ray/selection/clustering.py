"""Visual elements of a class: k-means on diffusion features, and the two rankings on it (paper, section 3.3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from ddps_ray.selection.candidates import Candidates
from ddps_ray.selection.seeding import seeded


@dataclass(frozen=True)
class Clustering:
    """A class's n patches, grouped and ranked.

    Attributes:
        members: Clusters by the median typicality of their patches, descending; in each the candidates' indices by
            distance to the centroid, ascending.
        medians: The median typicality of each, in that order.
        cluster: (n,), for each candidate the position of its cluster in `members`.
        rank: (n,), its position inside that cluster.
    """

    members: tuple[tuple[int, ...], ...]
    medians: tuple[float, ...]
    cluster: NDArray[np.int64]
    rank: NDArray[np.int64]


def cluster(candidates: Candidates, centres: int, seed: int) -> Clustering:
    """Clusters the patches by their L2-normalised DIFT features.

    The result follows from the candidates, `centres` and `seed` alone. Equal distances are ordered by image id, equal
    medians by the id of the patch nearest to the centroid.

    Args:
        candidates: One class.
        centres: M, the number of clusters; fewer if there are fewer different features.
        seed: Seed of the set; each class draws its own start from it.
    """
    norms = np.linalg.norm(candidates.dift, axis=1, keepdims=True)
    features = candidates.dift / np.maximum(norms, np.finfo(np.float64).tiny)
    means = KMeans(
        n_clusters=min(centres, len(np.unique(features, axis=0))),
        random_state=seeded(seed, candidates.class_id).getrandbits(32),
    )
    with threadpool_limits(limits=1):  # several threads add up a centroid in any order, and its last bits change
        labels = means.fit_predict(features)
    distances = np.linalg.norm(features - means.cluster_centers_[labels], axis=1)
    groups = [_nearest_first(np.flatnonzero(labels == label), distances) for label in np.unique(labels)]
    groups.sort(key=lambda members: (-np.median(candidates.typicality[members]), members[0]))
    places = {index: (c, r) for c, members in enumerate(groups) for r, index in enumerate(members)}
    ranked = np.array([places[index] for index in range(len(candidates))], dtype=np.int64)
    medians = tuple(float(np.median(candidates.typicality[members])) for members in groups)
    return Clustering(tuple(tuple(members) for members in groups), medians, ranked[:, 0], ranked[:, 1])


def _nearest_first(members: NDArray[np.int64], distances: NDArray[np.float64]) -> list[int]:
    order: list[int] = members[np.argsort(distances[members], kind="stable")].tolist()
    return order
