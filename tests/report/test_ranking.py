"""DD-Ranking's scores: its formulas on numbers computed by hand, and from which rows of a run they come."""

import json
from pathlib import Path
from typing import Any

import pytest

from ddps_ray.report import accuracy, ranking
from ddps_ray.report.cells import best, last
from ddps_ray.report.ranking import Ranking
from tests.report.rows import Row, run_with, seeds

SOFT = json.dumps({"classes": 10, "batch": 10, "cutmix": True, "crop_scale": [0.5, 1.0], "loss": "kl"})
PLAIN = json.dumps({"classes": 10, "batch": 10, "cutmix": False, "crop_scale": [1.0, 1.0], "loss": "kl"})
HARD = json.dumps({"classes": 10, "batch": 10, "cutmix": False, "crop_scale": [0.5, 1.0], "loss": "ce"})
WHOLE = json.dumps({"classes": 10, "batch": 128, "cutmix": False, "crop_scale": [1.0, 1.0], "loss": "ce"})


@pytest.mark.parametrize(
    ("improvement", "recovery", "score"),
    [
        (1.0, -1.0, 1.0),
        (-1.0, 1.0, 0.0),
        (0.1, 0.4, 0.2096784),  # α = -0.15: (0.8607080 - 0.3678794) / 2.3504024
        (0.0, 0.0, 0.2689414),  # (1 - 0.3678794) / 2.3504024
    ],
)
def test_label_robust_score(improvement: float, recovery: float, score: float) -> None:
    assert ranking.label_robust_score(improvement, recovery) == pytest.approx(score, abs=1e-6)


def test_augmentation_robust_score_and_weights() -> None:
    # β = 0.2: (1.2214028 - 0.3678794) / 2.3504024
    assert ranking.augmentation_robust_score(0.1, 0.3) == pytest.approx(0.3631392, abs=1e-6)
    # β = 0.1·0.25 + 0.3·0.75 = 0.25: (1.2840254 - 0.3678794) / 2.3504024
    assert ranking.augmentation_robust_score(0.1, 0.3, weight=0.25) == pytest.approx(0.3897826, abs=1e-6)
    # α = 0.1·0.25 - 0.4·0.75 = -0.275: (0.7595721 - 0.3678794) / 2.3504024
    assert ranking.label_robust_score(0.1, 0.4, weight=0.25) == pytest.approx(0.1666492, abs=1e-6)


def hard(last: dict[int, float], **changes: Any) -> list[Row]:
    return seeds(last, **{"protocol": "hard", "teacher": "none", "settings": HARD} | changes)


def grid() -> list[Row]:
    return [
        *seeds({0: 0.60, 1: 0.64}, settings=SOFT),
        *seeds({0: 0.50, 1: 0.54}, settings=SOFT, set_name="random"),
        *hard({0: 0.30, 1: 0.50}),
        *hard({0: 0.69, 7: 0.71}, set_name="whole", ipc=900, images=9000, settings=WHOLE),
        *seeds({0: 0.45, 1: 0.45}, settings=PLAIN),
        *seeds({0: 0.15, 1: 0.15}, settings=PLAIN, set_name="random"),
    ]


def ranked(tmp_path: Path, rows: list[Row]) -> list[Ranking]:
    return ranking.rank(accuracy.results(run_with(tmp_path, *rows)), last)


def test_scores_are_averaged_over_the_seeds_and_come_from_the_rows_that_they_need(tmp_path: Path) -> None:
    (found,) = ranked(tmp_path, grid())
    assert (found.result.set_name, found.result.protocol) == ("ddps", "rded")
    # whole 0.70 minus 0.30 and 0.50; 0.60 - 0.50 and 0.64 - 0.54; 0.45 - 0.15 twice
    for spread, mean in ((found.recovery, 0.3), (found.improvement, 0.1), (found.plain, 0.3)):
        assert spread is not None
        assert spread.mean == pytest.approx(mean, abs=1e-6)
    # α = -0.15 and -0.05: 0.2096784 and (0.9512294 - 0.3678794) / 2.3504024 = 0.2481915
    assert found.label_robust is not None
    assert found.label_robust.mean == pytest.approx((0.2096784 + 0.2481915) / 2, abs=1e-6)
    assert found.label_robust.std == pytest.approx((0.2481915 - 0.2096784) / 2**0.5, abs=1e-6)
    assert found.augmentation_robust is not None
    assert found.augmentation_robust.mean == pytest.approx(0.3631392, abs=1e-6)


def test_best_epochs_are_ranked_by_themselves(tmp_path: Path) -> None:
    rows = [each | {"accuracy_best": each["accuracy_last"] + (each["set_name"] == "ddps") * 0.1} for each in grid()]
    (found,) = ranking.rank(accuracy.results(run_with(tmp_path, *rows)), best)
    assert found.improvement is not None
    assert found.improvement.mean == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"protocol": "edc"}, "augmentation_robust"),
        ({"class_digest": "others"}, "augmentation_robust"),
        ({"class_digest": None}, "augmentation_robust"),
        ({"student": "convnet4"}, "augmentation_robust"),
        ({"epochs": 100}, "augmentation_robust"),
        ({"settings": WHOLE.replace("ce", "kl")}, "augmentation_robust"),
    ],
)
def test_a_whole_set_under_other_terms_gives_no_score(tmp_path: Path, changes: dict[str, Any], left: str) -> None:
    (found,) = ranked(tmp_path, [each | changes if each["set_name"] == "whole" else each for each in grid()])
    assert (found.label_robust, found.recovery) == (None, None)
    assert getattr(found, left) is not None


def test_without_random_or_hard_rows_there_is_no_score(tmp_path: Path) -> None:
    assert ranked(tmp_path / "a", [each for each in grid() if each["set_name"] != "random"]) == []
    soft = [each for each in grid() if each["protocol"] != "hard" and each["settings"] != PLAIN]
    assert ranked(tmp_path / "b", soft) == []


def test_two_hard_results_of_which_none_is_nearer_give_no_score(tmp_path: Path) -> None:
    other = hard({0: 0.9, 1: 0.9}, settings=HARD.replace("10}", "11}").replace('"batch": 10', '"batch": 11'))
    (found,) = ranked(tmp_path / "same", [*grid(), *other])
    assert found.label_robust is None
    crops = hard({0: 0.9, 1: 0.9}, settings=HARD.replace("[0.5, 1.0]", "[0.2, 1.0]"))
    (found,) = ranked(tmp_path / "other", [*grid(), *crops])
    assert found.recovery is not None
    assert found.recovery.mean == pytest.approx(0.3, abs=1e-6)


def test_accuracy_of_the_whole_set_is_the_mean_of_its_own_seeds(tmp_path: Path) -> None:
    (found,) = ranked(
        tmp_path, [each | {"seed": each["seed"] + 90} if each["set_name"] == "whole" else each for each in grid()]
    )
    assert found.recovery is not None
    assert found.recovery.mean == pytest.approx(0.3, abs=1e-6)
