"""The difference to the random set: over the same seeds, under the same terms, with the interval of a t table."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray.report import accuracy, comparison
from ddps_ray.report.accuracy import Accuracy
from tests.report.rows import run_with, seeds

DDPS, CHANCE = {0: 0.50, 1: 0.52, 2: 0.57}, {0: 0.40, 1: 0.45, 2: 0.47}


def test_difference_is_over_the_seeds_that_both_have() -> None:
    found = comparison.paired(DDPS, CHANCE | {3: 0.99})
    assert found is not None
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.09)
    # differences 0.10, 0.07, 0.10: standard deviation 0.01·√3, standard error 0.01; t(0.975, 2) = 4.3027
    assert found.interval == pytest.approx((0.09 - 0.043027, 0.09 + 0.043027), abs=1e-6)


def test_interval_of_five_pairs_has_the_quantile_of_four_degrees_of_freedom() -> None:
    gaps = (0.01, 0.02, 0.03, 0.04, 0.05)  # mean 0.03, standard error √(0.00025 / 5)
    found = comparison.paired(dict(enumerate(gaps)), dict.fromkeys(range(5), 0.0))
    assert found is not None
    assert found.interval == pytest.approx((0.03 - 2.776445 * 0.00707107, 0.03 + 2.776445 * 0.00707107), abs=1e-6)


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    found = comparison.paired({0: 0.5, 1: 0.7}, {1: 0.6})
    assert found is not None
    assert (found.interval, found.seeds) == (None, 1)
    assert found.mean == pytest.approx(0.1)
    assert comparison.paired({0: 0.5}, {1: 0.6}) is None


def _found(tmp_path: Path, **random: Any) -> tuple[Accuracy, Accuracy | None]:
    """The result of a set, and the random set's that it is compared to; `random` changes the latter."""
    run = run_with(tmp_path, *seeds(DDPS, set_name="ddps"), *seeds(CHANCE, **{"set_name": "random"} | random))
    found = accuracy.results(run)
    (own,) = [each for each in found if each.set_name == "ddps"]
    return own, comparison.random_like(own, found)


def test_of_two_draws_of_one_name_none_is_chosen(tmp_path: Path) -> None:
    draws = [row for digest in ("a", "b") for row in seeds(CHANCE, set_name="random", set_digest=digest)]
    found = accuracy.results(run_with(tmp_path, *seeds(DDPS, set_name="ddps"), *draws))
    (own,) = [each for each in found if each.set_name == "ddps"]
    assert len(found) == 3
    assert comparison.random_like(own, found) is None


@pytest.mark.parametrize("changes", [{}, {"set_name": "chance", "selector": "random"}, {"protocol": None}])
def test_the_random_set_is_found_by_its_name_or_its_selector(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = _found(tmp_path, **changes)[1]
    assert reference is not None
    assert reference.last_by_seed == pytest.approx(CHANCE, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"ipc": 2},
        {"student": "convnet4"},
        {"teacher": "convnet4"},
        {"protocol": "fkd"},
        {"epochs": 100},
        {"settings": '{"classes": 10, "batch": 20}'},
        {"class_digest": "others"},
        {"class_digest": None},
    ],
)
def test_a_random_set_under_other_terms_is_not_compared_to(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert _found(tmp_path, **changes)[1] is None


def test_of_several_random_sets_the_one_called_so_counts(tmp_path: Path) -> None:
    others = [seeds(CHANCE, set_name=name, selector="random") for name in ("another", "random", "chance")]
    found = accuracy.results(
        run_with(tmp_path, *seeds(DDPS, set_name="ddps"), *[row for rows in others for row in rows])
    )
    (own,) = [each for each in found if each.set_name == "ddps"]
    reference = comparison.random_like(own, found)
    assert reference is not None
    assert reference.set_name == "random"
    assert [comparison.random_like(each, found) for each in found if each is not own] == [None] * 3
