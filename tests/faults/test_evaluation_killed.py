"""An evaluation that is killed in the middle of a training goes on from its checkpoint.

That it then ends as an unbroken one does is shown in tests/students/test_training.py.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ddps_ray.config import Recipe
from tests.faults.nodes import ENVIRONMENT, ROOT, kill, until
from tests.pipeline import test_evaluate as evaluation
from tests.students import curves

SETTINGS: dict[str, Any] = {"sets": ["chance"], "seeds": [0], "epochs": 1000, "checkpoint_minutes": 0.02}


def _start(recipe: Recipe, folder: Path) -> subprocess.Popen[str]:
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "ddps_ray.cli", "evaluate", "--config", str(folder / "run.yaml")]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.usefixtures("ray_session")
def test_a_killed_evaluation_goes_on_from_its_checkpoint(scenes: Path, tmp_path: Path) -> None:
    made = evaluation.recipe(tmp_path / "run", **SETTINGS)
    evaluation.prepare(tmp_path, scenes, made)
    driver = _start(made, tmp_path)
    checkpoints = Path(made.run_dir, "checkpoints")
    until(lambda: bool(list(checkpoints.glob("evaluate-*/*.json"))) or driver.poll() is not None, "a state")
    assert driver.poll() is None
    kill(psutil.Process(driver.pid))
    driver.wait(30)
    assert evaluation.rows(made) == []
    again = _start(made, tmp_path)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert re.search(r", seed 0: going on after epoch [1-9]", said), said
    (row,) = evaluation.rows(made)
    assert (row["epochs"], row["seed"], row["parts"]) == (1000, 0, 1)
    (curve,) = Path(made.run_dir, "tensorboard", "chance").glob("*/*/*/*")
    drawn = curves.scalars(curve)
    assert [step for step, _ in drawn["loss"]] == list(range(1, 1001)), "each epoch once"
    assert drawn["accuracy"][-1][0] == 1000
    assert drawn["accuracy"][-1][1] == pytest.approx(row["accuracy_last"])
    assert not list(checkpoints.glob("evaluate-*"))
