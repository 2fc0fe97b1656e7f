"""An evaluation that is killed in the middle of a training goes on from its checkpoint, and ends as an unbroken one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ddps_ray.config import Recipe
from ddps_ray.pipeline import evaluate
from tests.faults.nodes import ENVIRONMENT, ROOT, kill, until
from tests.pipeline import test_evaluate as evaluation

SETTINGS: dict[str, Any] = {"sets": ["chance"], "seeds": [0], "epochs": 600, "checkpoint_minutes": 0.02}


def _prepared(folder: Path, scenes: Path) -> Recipe:
    made = evaluation.recipe(folder / "run", **SETTINGS)
    evaluation.prepare(folder, scenes, made)
    return made


def _start(recipe: Recipe, folder: Path) -> subprocess.Popen[str]:
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "ddps_ray.cli", "evaluate", "--config", str(folder / "run.yaml")]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.usefixtures("ray_session")
def test_a_killed_evaluation_goes_on_and_ends_as_an_unbroken_one(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    undisturbed, cut = (_prepared(tmp_path / name, scenes) for name in ("whole", "cut"))
    driver = _start(cut, tmp_path / "cut")
    checkpoints = Path(cut.run_dir, "checkpoints")
    until(lambda: len(list(checkpoints.glob("evaluate-*/*.json"))) > 0 or driver.poll() is not None, "a state")
    assert driver.poll() is None
    kill(psutil.Process(driver.pid))
    driver.wait(30)
    again = _start(cut, tmp_path / "cut")
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert ", seed 0: going on after epoch " in said
    evaluate.run(undisturbed)
    one_image = 1.01 / 11  # the number of threads may change a sum in its last bit, and with it one image
    for row, other in zip(evaluation.rows(undisturbed), evaluation.rows(cut), strict=True):
        assert row["accuracy_last"] == pytest.approx(other["accuracy_last"], abs=one_image)
        differs = {name for name, value in row.items() if other[name] != value}
        assert differs <= {"seconds", "memory", "accuracy_last", "accuracy_best", "best_epoch", "set_bytes"}
    assert not checkpoints.exists() or not list(checkpoints.glob("evaluate-*"))
