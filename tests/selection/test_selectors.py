"""What is chosen, against examples worked by hand and a second, plain computation of the whole rule."""

import math
import random
import statistics
from typing import Any

import pytest

from ddps_ray.selection.budget import Budget, plan
from ddps_ray.selection.candidates import Candidates
from ddps_ray.selection.selectors import DDPS, SELECTORS, Choice, Random
from tests.selection.rows import candidates, scored


def _names(found: Candidates, chosen: list[Choice]) -> list[str]:
    return [found.image_ids[choice.index] for choice in chosen]


def _three_visuals(count: int) -> list[dict[str, Any]]:
    """Uneven clusters on axes 0, 1 and 2: about half, a third and a sixth of the images."""
    rng = random.Random(11)
    visuals = [0, 0, 0, 1, 1, 2]
    return [scored(f"{i:03d}", visuals[i % 6], rng.uniform(-0.3, 0.3), rng.gauss(0, 1)) for i in range(count)]


def _plainly(rows: list[dict[str, Any]], ipc: int, top: int) -> list[str]:
    """The paper's rule on clusters that are known beforehand, in plain Python; mosaics up to IPC 6."""
    patches = 4 * ipc if ipc <= 6 else ipc
    groups: dict[int, list[tuple[list[float], float, str]]] = {}
    for row in rows:
        length = math.hypot(*row["dift"])
        unit = [value / length for value in row["dift"]]
        visual = max(range(7), key=lambda axis: unit[axis])
        groups.setdefault(visual, []).append((unit, row["typicality"], row["image_id"]))
    ranked = sorted(groups.values(), key=lambda group: statistics.median(t for _, t, _ in group), reverse=True)
    chosen: list[str] = []
    for group in ranked[:top]:
        centroid = [statistics.fmean(axis) for axis in zip(*(unit for unit, _, _ in group), strict=True)]
        group.sort(key=lambda patch: math.dist(patch[0], centroid))
        chosen += [name for _, _, name in group[: patches // top]]
    unused = [row for row in rows if row["image_id"] not in chosen]
    unused.sort(key=lambda row: -row["typicality"])
    return (chosen + [row["image_id"] for row in unused])[:patches]


@pytest.mark.parametrize("ipc", [1, 2, 3, 5, 6, 7, 11, 13, 30, 48])
def test_the_whole_selection_agrees_with_a_plain_computation(ipc: int) -> None:
    rows = _three_visuals(48)
    found = candidates(rows)
    chosen = _names(found, DDPS(found, 3, seed=0).choose(plan(ipc, top_clusters=2, mosaic=ipc <= 6)))
    assert chosen == _plainly(rows, ipc, top=2)
    assert len(set(chosen)) == len(chosen)


def test_short_clusters_are_filled_with_the_unused_patches_of_highest_typicality() -> None:
    found = candidates(
        [
            scored("only", 0, 0.0, 5.0),  # a cluster of one, the first by its median
            scored("near", 1, 0.0, 1.0),
            scored("far", 1, 0.3, 4.0),
            scored("side", 1, -0.1, 2.0),
            scored("best", 2, 0.0, 4.5),  # typical, but alone in a cluster of low median
            scored("low1", 2, 0.2, 0.0),
            scored("low2", 2, 0.2, 0.0),
        ]
    )
    chosen = DDPS(found, 3, seed=0).choose(Budget(images=6, columns=1, top_clusters=2, per_cluster=2))
    # Cluster 1 has its centre at about 0.065 beside its axis: `near`, then `side`; of the rest `best` and `far` lead.
    assert _names(found, chosen) == ["only", "near", "side", "best", "far", "low1"]
    assert [(choice.cluster, choice.rank) for choice in chosen[:3]] == [(0, 0), (1, 0), (1, 1)]
    assert [choice.cluster for choice in chosen[3:]] == [2, 1, 2]
    assert ["fill" in choice.reason for choice in chosen] == [False] * 3 + [True] * 3


def test_random_choice_ignores_typicality_and_stays_inside_the_image() -> None:
    rows = _three_visuals(40)
    found = candidates(rows)
    blind = candidates([row | {"typicality": -row["typicality"], "left": 0} for row in rows])
    large = plan(30, 10, mosaic=False)
    chosen = Random(found, 32, seed=7).choose(large)
    assert chosen == Random(blind, 32, seed=7).choose(large)
    assert len({choice.index for choice in chosen}) == 30
    assert chosen != Random(found, 32, seed=8).choose(large)
    assert [choice.index for choice in chosen] != sorted(choice.index for choice in chosen)
    lefts, tops = ({choice.box[axis] for choice in chosen} for axis in (0, 1))
    assert lefts <= set(range(96 - 48 + 1))
    assert tops <= set(range(64 - 48 + 1))
    assert min(len(lefts), len(tops)) > 5
    assert {choice.box[2:] for choice in chosen} == {(48, 48)}
    assert chosen[:11] == Random(found, 32, seed=7).choose(plan(11, 10, mosaic=False))


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_every_selector_takes_all_where_all_are_asked(name: str) -> None:
    found = candidates([scored(letter, place, 0.0, place) for place, letter in enumerate("abcd")])
    chosen = SELECTORS[name](found, 32, 0).choose(plan(1, 10, mosaic=True))
    assert sorted(_names(found, chosen)) == ["a", "b", "c", "d"]
