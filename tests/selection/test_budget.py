"""Budgets computed by hand from the paper's rule, with its N = 10 and mosaics up to IPC 10."""

import pytest

from ddps_ray.selection.budget import Budget, deal, plan


@pytest.mark.parametrize(
    ("ipc", "columns", "patches", "per_cluster"),
    [(1, 2, 4, 0), (3, 2, 12, 1), (10, 2, 40, 4), (11, 1, 11, 1), (20, 1, 20, 2), (50, 1, 50, 5), (100, 1, 100, 10)],
)
def test_budget_is_the_papers(ipc: int, columns: int, patches: int, per_cluster: int) -> None:
    budget = plan(ipc, available=1300, top_clusters=10, mosaic_up_to=10)
    found = (budget.images, budget.columns, budget.patches, budget.per_cluster)
    assert found == (ipc, columns, patches, per_cluster)


@pytest.mark.parametrize(
    ("ipc", "available", "images"), [(10, 40, 10), (10, 39, 9), (2, 7, 1), (1, 3, 1), (30, 29, 29), (30, 30, 30)]
)
def test_a_class_with_few_patches_gives_complete_images_only(ipc: int, available: int, images: int) -> None:
    assert plan(ipc, available, top_clusters=10, mosaic_up_to=10).images == images


def test_patches_are_dealt_as_rded_deals_them() -> None:
    assert deal("abcdefgh", Budget(2, 2, 10, 0)) == [list("aceg"), list("bdfh")]
    assert deal("abc", Budget(3, 1, 10, 0)) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("top_clusters", [4, 7, 10])
@pytest.mark.parametrize("ipc", range(1, 11))
def test_the_four_patches_of_a_mosaic_come_from_four_clusters(ipc: int, top_clusters: int) -> None:
    budget = plan(ipc, 1300, top_clusters, mosaic_up_to=10)
    clusters = [c for c in range(top_clusters) for _ in range(budget.per_cluster)]
    fill = [100 + number for number in range(budget.patches - len(clusters))]
    assert all(len(set(mosaic)) == 4 for mosaic in deal(clusters + fill, budget))


def test_a_class_smaller_than_one_mosaic_repeats_its_patches() -> None:
    assert deal("ab", plan(1, 2, 10, 10)) == [list("abab")]
