"""Factors of the learning rate by epoch, constant inside an epoch."""

import math
from collections.abc import Callable, Mapping


def half_cosine(epoch: int, epochs: int) -> float:
    """A cosine that has come down to half when training ends: RDED's and EDC's."""
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))


def cosine(epoch: float, epochs: float) -> float:
    """A cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def steps(epoch: int, epochs: int) -> float:
    """A fifth after two thirds of the training, and a fifth of that after five sixths: Minimax's."""
    return 0.2 ** ((epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6))


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "half-cosine": half_cosine,
    "cosine": cosine,
    "steps": steps,
}
"""By the name in a protocol: from (epoch, epochs), counted from 0."""
