"""Curves of a training, read by TensorBoard itself: each point once, whatever happens to the training."""

from pathlib import Path

import pytest

from ddps_ray.students.curves import Curves
from ddps_ray.students.training import Point
from tests.students.curves import read, reader, scalars

POINTS = [Point(epoch, 1 / epoch, 0.001, 0.25 if epoch == 4 else None, 1e9 + epoch) for epoch in range(1, 8)]


def test_each_epoch_is_a_point_and_each_validation(tmp_path: Path) -> None:
    with Curves(str(tmp_path), []) as curves:
        for point in POINTS:
            curves.add(point)
    made = scalars(tmp_path)
    assert set(made) == {"loss", "learning_rate", "accuracy"}
    assert [step for step, _ in made["loss"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [value for _, value in made["loss"]] == pytest.approx([1, 0.5, 1 / 3, 0.25, 0.2, 1 / 6, 1 / 7])
    assert [value for _, value in made["learning_rate"]] == pytest.approx([0.001] * 7)
    assert made["accuracy"] == [(4, 0.25)]
    (first, *_) = reader(tmp_path).Reload().Scalars("loss")
    assert first.wall_time == 1e9 + 1


def test_a_training_that_goes_on_neither_loses_a_point_nor_doubles_one(tmp_path: Path) -> None:
    killed = Curves(str(tmp_path), [])
    for point in POINTS[:5]:
        killed.add(point)
    killed.keep()
    watching = reader(tmp_path)
    assert [step for step, _ in read(watching)["loss"]] == [1, 2, 3, 4, 5]
    with Curves(str(tmp_path), POINTS[:3]) as curves:  # the state was that after the third epoch
        for point in POINTS[3:]:
            curves.add(point)
    for made in (read(watching), scalars(tmp_path)):
        assert [step for step, _ in made["loss"]] == [1, 2, 3, 4, 5, 6, 7]
        assert made["accuracy"] == [(4, 0.25)]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_training_that_begins_anew_leaves_nothing_of_the_earlier_one(tmp_path: Path) -> None:
    for points in (POINTS, POINTS[:2]):
        with Curves(str(tmp_path), []) as curves:
            for point in points:
                curves.add(point)
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2]
    assert "accuracy" not in scalars(tmp_path)
