"""Losses of a few logits, by hand."""

import math

import pytest
import torch

from ddps_ray.students.losses import LOSSES, Targets

LABELS = torch.tensor([0, 1])


def test_divergence_of_softmaxes_at_a_temperature() -> None:
    # At temperature 20 the teacher says (¾, ¼) and the student (½, ½); the second image has no loss.
    teacher = torch.tensor([[20 * math.log(3), 0.0], [5.0, 5.0]])
    loss = LOSSES["kl"](torch.zeros(2, 2), Targets(LABELS, teacher_NK=teacher), 20)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert loss.item() == pytest.approx(divergence / 2) == pytest.approx(0.0654059, abs=1e-6)


def test_squared_error_of_logits_with_a_little_cross_entropy() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    loss = LOSSES["mse"](torch.zeros(2, 2), Targets(LABELS, teacher_NK=teacher), 1)
    assert loss.item() == pytest.approx((1 + 9) / 4 + 0.025 * math.log(2))


def test_cross_entropy_of_a_mixed_batch_goes_by_area() -> None:
    student = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])  # softmaxes (¾, ¼) and (½, ½)
    plain = LOSSES["ce"](student, Targets.of(LABELS, None, None, 1.0), 1)
    assert plain.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    mixed = LOSSES["ce"](student, Targets.of(LABELS, None, torch.tensor([1, 0]), 0.75), 1)
    others = (math.log(4) + math.log(2)) / 2
    assert mixed.item() == pytest.approx(0.75 * plain.item() + 0.25 * others)


def test_labels_that_a_set_gives_count_where_they_are_asked_for_alone() -> None:
    given = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    student = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    targets = Targets.of(LABELS, given, None, 1.0)
    first = 0.5 * math.log(4 / 3) + 0.5 * math.log(4)
    assert LOSSES["given-ce"](student, targets, 1).item() == pytest.approx((first + math.log(2)) / 2)
    assert LOSSES["ce"](student, targets, 1).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    mixed = Targets.of(LABELS, given, torch.tensor([1, 0]), 0.75)
    others = (math.log(4 / 3) + math.log(2)) / 2  # the first image with the second's labels, and the other way round
    expected = 0.75 * (first + math.log(2)) / 2 + 0.25 * others
    assert LOSSES["given-ce"](student, mixed, 1).item() == pytest.approx(expected)


def test_a_part_of_a_batch_keeps_its_own_targets() -> None:
    part = Targets.of(torch.tensor([4, 5, 6]), torch.eye(3), torch.tensor([2, 0, 1]), 0.3).part(torch.tensor([0, 2]))
    assert part.labels_N.tolist() == [4, 6]
    assert part.partners_N is not None
    assert part.partners_N.tolist() == [6, 5]
    assert part.given_partners_NK is not None
    assert part.given_partners_NK.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert part.kept == 0.3
