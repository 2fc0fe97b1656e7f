"""The interval of a share, against published values; and what is a judge."""

from dataclasses import replace

import pytest

from ddps_ray.verdict import Verdict, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_newcombe_1998(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def verdict(right: int, comparisons: int = 100, error: float = 0.2, misread: float = 0.9) -> Verdict:
    return Verdict(100, 0, comparisons, right, 400, error, misread, 0.1, "cpu", ("because",))


def test_a_judge_is_clearly_better_than_a_guess() -> None:
    assert [verdict(right).is_judge for right in (30, 50, 59, 60, 61, 100)] == [False, False, False, True, True, True]
    assert not verdict(100, misread=0.09).is_judge, "its output is of the other prediction type"
    assert verdict(100, error=5.0, misread=0.9).is_judge, "read so, it would say nothing either"
    assert (
        verdict(100, error=5.0).doubts()[0].startswith("at t = 400 the model's error is 500% of that without a model")
    )
    assert verdict(100).doubts() == []
    assert verdict(0, comparisons=0).is_judge, "with one class there is nothing to compare"


@pytest.mark.parametrize(
    ("images", "right", "judge", "doubted"),
    [(3, 3, True, True), (20, 10, True, True), (20, 7, False, False), (30, 15, False, False), (20, 20, True, False)],
)
def test_too_few_images_tell_nothing_but_that_it_is_no_good_one(
    images: int, right: int, judge: bool, doubted: bool
) -> None:
    found = replace(verdict(right, images), images=images)
    assert found.is_judge == judge
    assert any("too few to tell" in doubt for doubt in found.doubts()) == doubted


def test_more_comparisons_of_the_same_images_tell_no_more() -> None:
    few = replace(verdict(36, 40), images=10)
    assert few.interval == wilson(9, 10)


def test_outputs_that_are_not_finite_are_no_judgement() -> None:
    assert replace(verdict(95, 95), images=95, broken=5).is_judge
    assert "not finite in 5 of 100" in replace(verdict(95, 95), images=95, broken=5).doubts()[0]
    assert not replace(verdict(94, 94), images=94, broken=6).is_judge
    assert replace(verdict(0, 0), images=0, broken=9).line() == "the model's output is not finite in 9 of 9 images"


def test_the_line_has_the_figures() -> None:
    assert verdict(97).line() == (
        "the judge prefers an image's own class to another in 97 of 100 comparisons (95 % interval 92% to 99%, "
        "chance is 50 %; error at t = 400: 20% of that without a model)"
    )
    assert "one class" in verdict(0, comparisons=0).line()
    assert verdict(50).reason().endswith("Likely cause: because")


def test_it_can_be_kept_and_read_again() -> None:
    assert Verdict.from_json(verdict(7).as_json()) == verdict(7)
