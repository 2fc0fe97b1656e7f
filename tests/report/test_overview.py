"""The head of the page: students and teachers of any recipe in words."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.report import accuracy, overview
from tests.report.rows import row, run_with


def _recipe(**sections: Any) -> Recipe:
    values = {"run_dir": "run", "data": {"root": "data"}, "model": {"path": "quickstart"}}
    return config.parse(values | sections, "test")


def _said(recipe: Recipe, about: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in overview.settings(recipe) if name.startswith(about)]


def test_the_only_teacher_has_no_name() -> None:
    assert _said(_recipe(), "Teacher") == [("Teacher", "resnet18, weights: published")]


def test_several_teachers_are_all_named() -> None:
    several = {"big": {"model": {"arch": "resnet50"}}, "own": {"weights": "trained", "model": {"arch": "convnet3"}}}
    assert _said(_recipe(teachers=several), "Teacher") == [
        ("Teacher big", "resnet50, weights: published"),
        ("Teacher own", "convnet3, weights: trained"),
    ]


def test_where_labels_are_hard_there_is_none() -> None:
    assert _said(_recipe(evaluate={"protocols": ["hard"]}), "Teacher") == []


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ({}, "resnet18; protocol rded"),
        ({"epochs": 7}, "resnet18; protocol rded; 7 epochs"),
        ({"protocols": ["rded", "hard"]}, "resnet18; protocols rded, hard"),
    ],
)
def test_epochs_are_said_where_the_recipe_says_them(evaluate: dict[str, Any], said: str) -> None:
    assert _said(_recipe(evaluate=evaluate), "Students") == [("Students", said)]


@pytest.mark.parametrize(
    ("teachers", "changes", "said"),
    [
        ({}, {}, "the teacher, which saw the whole data set, has 90.0"),
        ({"a": {}, "b": {}}, {"teacher": "b"}, "the teacher “b”, which saw the whole data set, has 90.0"),
        (
            {},
            {"teacher": "none", "accuracy_teacher": 0.0, "protocol": "hard"},
            "its labels were hard ones, without a t",
        ),
    ],
)
def test_the_best_result_names_its_own_teacher(
    tmp_path: Path, teachers: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    found = accuracy.results(run_with(tmp_path, row(**changes)))
    (best,) = found
    assert said in overview.taught_by(_recipe(teachers=teachers), best)
