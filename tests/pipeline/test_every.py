"""All stages in one: what is checked beforehand is what is left to do."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import every, trainers
from ddps_ray.pipeline import teacher as teacher_stage
from tests.students import inputs


def _values(run_dir: Path, root: str = "unused", **sections: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"run_dir": str(run_dir), "data": {"root": root}, "model": {"path": "quickstart"}}
    return values | sections


def _recipe(run_dir: Path, **sections: Any) -> Recipe:
    return config.parse(_values(run_dir, **sections), "test")


def test_only_trainings_that_are_left_ask_for_workers(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    evaluate, teacher = {"workers": 2}, {"workers": 64, "weights": "timm"}
    assert list(every.workers(_recipe(tmp_path / "run", evaluate=evaluate, teacher=teacher))) == [2]
    trained = _recipe(
        tmp_path / "run",
        evaluate=evaluate,
        teacher=teacher | {"weights": "trained"},
        model={"path": "pretrained"},
        pretrain={"workers": 3},
    )
    assert list(every.workers(trained)) == [3, 64, 2]
    for stage, settings in {"pretrain": {}, "teacher": teacher_stage.settings(trained)}.items():
        run.claim(stage, settings)
        run.finish(stage, {})
    assert list(every.workers(trained)) == [2]
    untested = {"root": "unused", "val": None}
    assert list(every.workers(_recipe(tmp_path / "run", data=untested, evaluate=evaluate))) == []


@pytest.mark.usefixtures("ray_session")
def test_too_many_workers_are_refused_where_no_more_come(tmp_path: Path) -> None:
    assert trainers.slots(2, _recipe(tmp_path)) == 2, "of four CPUs"
    with pytest.raises(UserError, match="workers: 5 workers need 5 CPUs, the cluster has 4"):
        trainers.slots(5, _recipe(tmp_path))
    assert trainers.slots(5, _recipe(tmp_path, train_on_gpus=True)) == 1, "GPUs come when they are asked for"
