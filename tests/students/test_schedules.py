"""Learning rates by epoch, by hand."""

import math

import pytest

from ddps_ray.students.schedules import SCHEDULES


def test_rdeds_cosine_ends_at_half() -> None:
    factors = [SCHEDULES["half-cosine"](epoch, 4) for epoch in range(5)]
    assert factors == pytest.approx([1, 0.5 * (1 + math.cos(math.pi / 8)), 0.8535534, 0.6913417, 0.5])


def test_a_cosine_ends_at_zero() -> None:
    assert [SCHEDULES["cosine"](epoch, 4) for epoch in range(5)] == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])


def test_minimaxs_steps_are_at_two_thirds_and_five_sixths() -> None:
    factors = [SCHEDULES["steps"](epoch, 12) for epoch in range(12)]
    assert factors == pytest.approx([1] * 8 + [0.2] * 2 + [0.04] * 2)
