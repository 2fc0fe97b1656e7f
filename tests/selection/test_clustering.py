"""Clusters known by construction come out ranked by median typicality, their patches by distance to the centroid."""

import random

import numpy as np

from ddps_ray.selection.clustering import Clustering, cluster
from tests.selection.rows import candidates, scored


def _ids(clustering: Clustering, image_ids: tuple[str, ...]) -> list[list[str]]:
    return [[image_ids[index] for index in members] for members in clustering.members]


def test_the_median_not_the_mean_ranks_clusters_and_the_distance_not_typicality_ranks_patches() -> None:
    mean_wins = [("a1", 0.0, 9.0), ("a2", 0.1, 0.1), ("a3", 0.25, 0.1)]  # mean 3.07, median 0.1
    median_wins = [("b1", -0.2, 0.2), ("b2", 0.0, 0.3), ("b3", 0.01, 0.2), ("b4", 0.3, 0.3)]  # mean 0.25, median 0.25
    last = [("c1", 0.0, -1.0)]
    groups = enumerate([mean_wins, median_wins, last])
    found = candidates([scored(name, visual, *rest) for visual, group in groups for name, *rest in group])
    ranked = cluster(found, centres=3, seed=0)
    # Beside their axes the b's have their centre at about 0.03, the a's at about 0.115.
    assert _ids(ranked, found.image_ids) == [["b3", "b2", "b1", "b4"], ["a2", "a1", "a3"], ["c1"]]
    assert ranked.cluster.tolist() == [1, 1, 1, 0, 0, 0, 0, 2]
    assert ranked.rank.tolist() == [1, 0, 2, 2, 1, 0, 3, 0]


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = random.Random(5)
    rows = [scored(f"{i:03d}", i % 4, rng.uniform(-0.9, 0.9), rng.random()) for i in range(60)]
    first = cluster(candidates(rows), centres=9, seed=3)
    again = cluster(candidates(rng.sample(rows, len(rows))), centres=9, seed=3)
    assert len(first.members) == 9
    assert first.members == again.members
    np.testing.assert_array_equal(first.cluster, again.cluster)


def test_alike_patches_are_one_cluster_ordered_by_image_id() -> None:
    found = candidates([scored(name, visual, 0.0, 1.0) for name, visual in [("d", 0), ("b", 1), ("c", 0), ("a", 1)]])
    ranked = cluster(found, centres=32, seed=0)
    assert _ids(ranked, found.image_ids) == [["a", "b"], ["c", "d"]]
