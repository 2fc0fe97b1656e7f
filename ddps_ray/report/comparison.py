"""A set against the random one: the difference over the same seeds, with its interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from ddps_ray.report.accuracy import RANDOM, Accuracy

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean difference of two sets over the seeds that both have, as shares of one.

    Attributes:
        mean: Of the seeds' differences.
        interval: Student's 95 % interval of that mean; None for a single seed.
        seeds: How many seeds both have.
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: int


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """How much higher one is than the other, seed by seed; None if they share no seed.

    Args:
        own: Accuracy by seed.
        other: That of what it is compared to.
    """
    gaps = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
    if not gaps:
        return None
    mean = fmean(gaps)
    if len(gaps) == 1:
        return Difference(mean, None, 1)
    quantile = float(stdtrit(len(gaps) - 1, (1 + _CONFIDENCE) / 2))
    half = quantile * stdev(gaps) / math.sqrt(len(gaps))
    return Difference(mean, (mean - half, mean + half), len(gaps))


def random_like(result: Accuracy, found: Sequence[Accuracy]) -> Accuracy | None:
    """The random set's result under the same terms; None if there is none, it is this one, or which one is open.

    Of several random sets the one called `random` counts, else the first by name; several of one name, such as draws
    of other seeds, are not chosen from.

    Args:
        result: Of the set that is compared.
        found: All results of its run.
    """
    if is_random(result) or result.is_whole:
        return None
    alike = [each for each in found if is_random(each) and each.is_like(result)]
    name = min((each.set_name for each in alike), key=lambda name: (name != RANDOM, name), default="")
    called = [each for each in alike if each.set_name == name]
    return called[0] if len(called) == 1 else None


def is_random(result: Accuracy) -> bool:
    """Whether it is a random set's."""
    return RANDOM in (result.selector, result.set_name)
