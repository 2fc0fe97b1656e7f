"""DD-Ranking's scores: what a distilled set is worth apart from soft labels (LRS) and from augmentation (ARS).

Both are exponentials of accuracies as shares of one, which end at 0 and 1 where the accuracies could not be worse or
better. As in DD-Ranking they are computed for each seed, and then averaged; the whole training set's accuracy is one
number, the mean over its own seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ddps_ray.report.accuracy import Accuracy, Spread, spread
from ddps_ray.report.comparison import is_random, random_like

WEIGHT = 0.5
"""λ: the share of the improvement over random in LRS, and of the figures with augmentation in ARS."""

HARD = "hard"
"""The protocol whose labels are the classes alone."""

_OF_THE_SET = {"batch", "crop_scale", "shuffle", "images", "selector", "set_digest"}
"""Settings that a protocol takes from the size and the composition of a set."""

_AUGMENTATION = {"cutmix", "crop_scale", "shuffle", "colour"}

Measure = Callable[[Accuracy], Mapping[int, float]]
"""The accuracy of each seed that counts: the last epoch's, or the best one's."""


@dataclass(frozen=True)
class Ranking:
    """DD-Ranking's scores of one result; each is None where the run lacks a row that it needs.

    Attributes:
        result: The distilled set's.
        recovery: Hard-label recovery (HLR): whole training set minus this set, both with hard labels; low is good.
        improvement: Improvement over random (IOR), under the result's own protocol; high is good.
        label_robust: LRS.
        plain: Improvement over random without augmentation.
        augmentation_robust: ARS.
    """

    result: Accuracy
    recovery: Spread | None
    improvement: Spread | None
    label_robust: Spread | None
    plain: Spread | None
    augmentation_robust: Spread | None


def label_robust_score(improvement: float, recovery: float, weight: float = WEIGHT) -> float:
    """LRS of an improvement over random and a hard-label recovery, as shares of one."""
    return _normalised(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(augmented: float, plain: float, weight: float = WEIGHT) -> float:
    """ARS of the improvements over random with and without augmentation, as shares of one."""
    return _normalised(weight * augmented + (1 - weight) * plain)


def _normalised(value: float) -> float:
    """Takes -1 to 0 and 1 to 1."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def rank(found: Sequence[Accuracy], measure: Measure) -> list[Ranking]:
    """Scores each distilled set of a run for which at least one of LRS and ARS can be known.

    Args:
        found: All results of one run.
        measure: Which accuracy counts.
    """
    sets = [each for each in found if not (each.is_whole or is_random(each))]
    seconds = [_without_augmentation(each, found) for each in sets]
    ranked = [_ranking(each, found, measure) for each in sets if each not in seconds]
    return [each for each in ranked if each.label_robust or each.augmentation_robust]


def _ranking(result: Accuracy, found: Sequence[Accuracy], measure: Measure) -> Ranking:
    def over_random(of: Accuracy | None) -> dict[int, float]:
        reference = random_like(of, found) if of else None
        return _gaps(measure(of), measure(reference)) if of and reference else {}

    improvement, recovery = over_random(result), _recovery(result, found, measure)
    plain = over_random(_without_augmentation(result, found))
    return Ranking(
        result,
        _spread(recovery),
        _spread(improvement),
        _spread(_joined(label_robust_score, improvement, recovery)),
        _spread(plain),
        _spread(_joined(augmentation_robust_score, improvement, plain)),
    )


def _recovery(result: Accuracy, found: Sequence[Accuracy], measure: Measure) -> dict[int, float]:
    """HLR of each seed; empty where a row is missing, or several would do and none is nearest."""
    hard = [
        each for each in found if each.protocol == HARD and _classes_and_student(each) == _classes_and_student(result)
    ]
    own = _nearest(result, [each for each in hard if _same_set(each, result)])
    if own is None:
        return {}
    whole = [each for each in hard if each.is_whole and _apart(each, _OF_THE_SET) == _apart(own, _OF_THE_SET)]
    full = _nearest(own, whole)
    return (
        {}
        if full is None
        else {seed: spread([*measure(full).values()]).mean - own_ for seed, own_ in measure(own).items()}
    )


def _without_augmentation(result: Accuracy, found: Sequence[Accuracy]) -> Accuracy | None:
    """The same set's result under the same terms but for CutMix and crops; None if this one has neither itself."""
    if _plain(result):
        return None
    return _nearest(
        result,
        [
            each
            for each in found
            if _plain(each)
            and _same_set(each, result)
            and _classes_and_student(each) == _classes_and_student(result)
            and (each.teacher, each.protocol) == (result.teacher, result.protocol)
            and _apart(each, _AUGMENTATION) == _apart(result, _AUGMENTATION)
        ],
    )


def _nearest(result: Accuracy, candidates: Sequence[Accuracy]) -> Accuracy | None:
    """The one of them that shares most with a result: teacher, then epochs, then crops; None if that is not one."""
    tests: list[Callable[[Accuracy], Any]] = [
        lambda each: each.teacher,
        lambda each: each.epochs,
        lambda each: each.terms.get("crop_scale"),
    ]

    def narrowed(left: Sequence[Accuracy], of: Callable[[Accuracy], Any]) -> Sequence[Accuracy]:
        return [each for each in left if of(each) == of(result)] or left

    left = reduce(narrowed, tests, candidates)
    return left[0] if len(left) == 1 else None


def _plain(result: Accuracy) -> bool:
    """Whether it was trained without CutMix and crops; flips, and a mosaic's shuffle, are there always."""
    terms = result.terms
    return terms.get("cutmix") == "false" and terms.get("crop_scale") in ("[1, 1]", "[1.0, 1.0]")


def _classes_and_student(result: Accuracy) -> tuple[Any, ...]:
    digest = result.class_digest if result.class_digest is not None else object()  # which equals nothing
    return digest, result.student


def _same_set(one: Accuracy, other: Accuracy) -> bool:
    names = ("set_name", "selector", "ipc", "set_digest")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _apart(result: Accuracy, names: set[str]) -> dict[str, str]:
    """All settings but these and the teacher's, which hard labels do not have."""
    return {key: value for key, value in result.terms.items() if key not in names and key.split(".")[0] != "teacher"}


def _gaps(own: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {seed: value - other[seed] for seed, value in own.items() if seed in other}


def _joined(
    score: Callable[[float, float], float], one: Mapping[int, float], other: Mapping[int, float]
) -> dict[int, float]:
    return {seed: score(value, other[seed]) for seed, value in one.items() if seed in other}


def _spread(by_seed: Mapping[int, float]) -> Spread | None:
    return spread([*by_seed.values()]) if by_seed else None
