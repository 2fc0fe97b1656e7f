"""Budgets computed by hand from the rule of the paper, with its N = 10, for mosaics and for single patches."""

import pytest

from ddps_ray.selection.budget import Budget, deal, plan, shortage


@pytest.mark.parametrize(
    ("ipc", "columns", "patches", "per_cluster"),
    [
        (1, 2, 4, 0),
        (3, 2, 12, 1),
        (10, 2, 40, 4),
        (11, 1, 11, 1),
        (20, 1, 20, 2),
        (50, 1, 50, 5),
        (100, 1, 100, 10),
        (2, 1, 2, 0),
        (20, 2, 80, 8),
    ],
)
def test_budget_is_the_papers(ipc: int, columns: int, patches: int, per_cluster: int) -> None:
    budget = plan(ipc, top_clusters=10, mosaic=columns == 2)
    found = (budget.images, budget.columns, budget.patches, budget.per_cluster)
    assert found == (ipc, columns, patches, per_cluster)


@pytest.mark.parametrize(("ipc", "available"), [(10, 40), (1, 4), (11, 11), (30, 30), (30, 1300)])
def test_a_class_with_so_many_images_is_large_enough(ipc: int, available: int) -> None:
    assert shortage(ipc, available, mosaic=ipc <= 10) is None


@pytest.mark.parametrize(
    ("ipc", "available", "said"),
    [
        (
            10,
            39,
            "10 mosaics of four patches need 40 images of each class, and it has 39: possible is ipc up to 9, or,",
        ),
        (2, 7, "need 8 images of each class, and it has 7: possible is ipc up to 1, or, with single patches"),
        (1, 3, "and it has 3: possible is with single patches (composition: single), ipc up to 3"),
        (30, 29, "30 images of each class are asked, and it has 29"),
    ],
)
def test_a_class_that_is_too_small_is_said_with_what_it_can_give(ipc: int, available: int, said: str) -> None:
    assert said in str(shortage(ipc, available, mosaic=ipc <= 10))


def test_patches_are_dealt_as_rded_deals_them() -> None:
    assert deal("abcdefgh", Budget(2, 2, 10, 0)) == [list("aceg"), list("bdfh")]
    assert deal("abc", Budget(3, 1, 10, 0)) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("top_clusters", [4, 7, 10])
@pytest.mark.parametrize("ipc", range(1, 11))
def test_the_four_patches_of_a_mosaic_come_from_four_clusters(ipc: int, top_clusters: int) -> None:
    budget = plan(ipc, top_clusters, mosaic=True)
    clusters = [c for c in range(top_clusters) for _ in range(budget.per_cluster)]
    fill = [100 + number for number in range(budget.patches - len(clusters))]
    assert all(len(set(mosaic)) == 4 for mosaic in deal(clusters + fill, budget))
