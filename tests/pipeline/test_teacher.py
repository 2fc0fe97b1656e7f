"""Stage `teacher` on a real Ray: what it leaves, that it does not train twice, and that a crash changes nothing."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray.train
import safetensors.torch
import torch

from ddps_ray import manifest
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import teacher, trainers
from ddps_ray.storage import Run
from ddps_ray.students import data, teachers, training
from tests.students import inputs

WEIGHTS = f"teacher/{teachers.WEIGHTS_FILE}"


def recipe(run_dir: Path, **changes: Any) -> Recipe:
    values = {
        "run_dir": str(run_dir),
        "data": {"root": "unused"},
        "model": {"path": "quickstart"},
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}, "epochs": 4, "batch": 20},
        "evaluate": {"size": 16},
    }
    return Recipe.model_validate(values | changes)


def die_once(marker: str, **arguments: Any) -> None:
    """Trains the teacher, but the first process that comes to its third checkpoint is gone."""
    report, calls = ray.train.report, []

    def counted(*arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3 and not Path(marker).exists():
            Path(marker).touch()
            ray.train.get_all_reported_checkpoints()  # returns when the first two are known to be safe
            os._exit(1)
        report(*arguments, **named)

    ray.train.report = counted
    try:
        teacher.train(**arguments)
    finally:
        ray.train.report = report
    Path(marker).write_text(str(len(calls)))


@pytest.fixture(scope="module")
def trained(ray_session: None, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run directory with a trained teacher."""
    made = recipe(tmp_path_factory.mktemp("trained") / "run")
    inputs.indexed(Path(made.run_dir), scenes)
    teacher.run(made)
    return made


def test_teacher_is_saved_with_its_accuracy(trained: Recipe) -> None:
    run = Run(trained.run_dir)
    classes = data.class_ids(run, "train")
    about = teachers.describe(run.path("teacher"))
    model = teachers.load(trained.teacher, run.path("teacher"), classes, 16)
    val = data.load_validation(run, "val", classes, 16)
    assert about["class_ids"] == classes
    assert about["accuracy"] == pytest.approx(training.accuracy(model, val, torch.device("cpu")), abs=1.5 / 60)
    assert run.summary("teacher") == {"accuracy": about["accuracy"], "classes": 10}
    assert not (Path(trained.run_dir) / "checkpoints" / "teacher").exists()


def test_second_run_trains_nothing(trained: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Path(trained.run_dir) / WEIGHTS
    before = weights.stat().st_mtime_ns
    teacher.run(trained)
    assert weights.stat().st_mtime_ns == before
    assert "already finished: 10 classes" in capsys.readouterr().out


def test_other_settings_lie_beside_the_earlier_ones(trained: Recipe) -> None:
    run, classes = Run(trained.run_dir), data.class_ids(Run(trained.run_dir), "train")
    before = (Path(trained.run_dir) / WEIGHTS).read_bytes()
    other = trained.model_copy(update={"teacher": trained.teacher.model_copy(update={"epochs": 1})})
    stage, folder = teacher.location(other, "", classes)
    assert stage.startswith("teacher~")
    assert not teacher.is_done(other, "", classes)
    teacher.run(other)
    assert (Path(trained.run_dir) / WEIGHTS).read_bytes() == before
    assert teachers.describe(folder)["class_ids"] == classes
    assert teacher.is_done(other, "", classes)
    assert teacher.is_done(trained, "", classes)
    assert set(run.record()["stages"]) == {"index", "teacher", stage}


def test_what_a_training_does_not_depend_on_keeps_its_teacher(trained: Recipe) -> None:
    told = trained.model_copy(update={"teacher": trained.teacher.model_copy(update={"accuracy": 0.9})})
    classes = data.class_ids(Run(trained.run_dir), "train")
    assert teacher.location(told, "", classes) == ("teacher", Run(trained.run_dir).path("teacher"))
    of_before = teacher.settings(trained)
    of_before["teacher"]["model"]["lr"] = None  # as networks had it
    run = Run(trained.run_dir)
    assert run.variant("teacher", of_before) == "teacher"


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_named_teachers_are_trained_on_all_classes_or_on_those_of_each_set(
    scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    everything = data.class_ids(run, "train")
    small = {"weights": "trained", "model": {"arch": "convnet1", "width": 8}, "epochs": 1, "batch": 20}
    two = everything[3:5]
    made = recipe(
        tmp_path / "run",
        teachers={"a": small, "b": small | {"scope": "set"}, "c": {"model": {"arch": "resnet18"}}},
        distill={"sets": {"two": {"classes": two}, "again": {"classes": two[::-1]}}},
    )
    teacher.run(made)
    stage, folder = teacher.location(made, "b", two)
    assert stage == f"teacher/b/classes={manifest.class_digest(two)}"
    assert teachers.describe(folder)["class_ids"] == two
    assert teachers.describe(run.path("teacher", "a"))["class_ids"] == everything
    assert set(run.record()["stages"]) == {"index", "teacher/a", stage}
    images = torch.randn(2, 3, 16, 16)
    assert teachers.load(made.teachers["b"], folder, two[::-1], 16)(images).shape == (2, 2)
    assert "teacher/a: convnet1-w8 on 10 classes at 16 px, 1 epochs" in capfd.readouterr().out
    sixth = everything[5:7]
    teacher.train_for(made, "b", sixth)
    assert teachers.describe(teacher.location(made, "b", sixth)[1])["class_ids"] == sixth


def test_teachers_of_sets_are_trained_for_the_classes_of_foreign_sets_too(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    theirs = data.class_ids(run, "train")[2:4]
    for class_id in theirs:
        shutil.copytree(scenes / "train" / class_id, tmp_path / "theirs" / class_id)
    about = {"weights": "trained", "scope": "set", "model": {"arch": "convnet1"}}
    evaluation = {"size": 16, "sets": ["theirs"], "foreign": {"theirs": {"path": str(tmp_path / "theirs")}}}
    made = recipe(tmp_path / "run", teacher=about, evaluate=evaluation)
    assert list(teacher.trainings(made)) == [("", theirs)]


def test_crash_in_the_middle_changes_nothing(trained: Recipe, scenes: Path, tmp_path: Path) -> None:
    crashed = recipe(tmp_path / "run")
    run = inputs.indexed(tmp_path / "run", scenes)
    marker = tmp_path / "died"
    arguments: dict[str, Any] = {"name": "", "class_ids": data.class_ids(run, "train"), "stage": "teacher"}
    arguments |= {"recipe": crashed, "marker": str(marker)}
    trainers.fit(die_once, arguments, run, "teacher", workers=1, recipe=crashed)
    assert marker.read_text() == "2"  # epochs 3 and 4; the first two came from the checkpoint
    made, wanted = (safetensors.torch.load_file(Path(each.run_dir) / WEIGHTS) for each in (crashed, trained))
    assert made.keys() == wanted.keys()
    assert all(torch.allclose(made[name], wanted[name], atol=1e-6) for name in wanted)


def test_published_weights_need_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher.run(recipe(tmp_path / "run", teacher={"weights": "timm"}))
    assert "nothing to train: resnet18.tv_in1k has published weights" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_network_that_does_not_fit_is_refused_before_anything_is_written(scenes: Path, tmp_path: Path) -> None:
    inputs.indexed(tmp_path / "run", scenes)
    with pytest.raises(UserError, match=r"evaluate\.size: convnet2 halves"):
        teacher.run(recipe(tmp_path / "run", evaluate={"size": 18}))
    assert Run(str(tmp_path / "run")).record()["stages"].keys() == {"index"}
