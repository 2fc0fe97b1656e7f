"""A training outlives any number of its nodes, but not a fault of its own that comes back."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.train import WorkerGroupError

from ddps_ray.config import Recipe
from ddps_ray.pipeline import cluster as product
from ddps_ray.pipeline import trainers
from ddps_ray.storage import Run
from tests.faults.nodes import ENVIRONMENT, ROOT, cluster, until

QUICK = '{"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}'
"""A head that soon knows that a node is lost."""


def _linger(folder: str) -> None:
    """A training that keeps a state at once, and ends when it may."""
    run = Run(f"{folder}/run")
    state = trainers.saved_state(run, "lingering")
    with Path(folder, "tries").open("a") as tries:
        tries.write(f"{state}\n")
    if state is None:
        trainers.report({}, {"step": 1})
    until(Path(folder, "go").exists, "leave to end")


def _drive(folder: str) -> None:
    """Runs that training, which may not fail once."""
    recipe = _recipe(folder)
    product.connect(recipe)
    trainers._FAILURES = 0
    trainers.fit(_linger, {"folder": folder}, Run(recipe.run_dir), "lingering", 1, recipe)


def _recipe(folder: str) -> Recipe:
    values: dict[str, Any] = {"data": {"root": "unused"}, "model": {"path": "quickstart"}}
    return Recipe.model_validate({"run_dir": f"{folder}/run", **values})


def test_a_node_that_vanishes_is_no_failure_of_the_training(tmp_path: Path) -> None:
    log, tries = tmp_path / "log", tmp_path / "tries"
    program = f"from tests.faults import test_lost_nodes; test_lost_nodes._drive({str(tmp_path)!r})"
    with cluster(1, "--num-cpus=0", f"--system-config={QUICK}") as there, log.open("wb") as said:
        environment = {**ENVIRONMENT, "RAY_ADDRESS": there.address}
        driver = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=said, stderr=said, cwd=ROOT, start_new_session=True
        )
        kept = tmp_path / "run" / "checkpoints" / "lingering" / "checkpoint_manager_snapshot.json"
        until(lambda: kept.exists() or driver.poll() is not None, "a state")
        there.lose(there.workers[0])
        there.add_worker()
        (tmp_path / "go").touch()
        until(lambda: driver.poll() is not None, "the training's end")
    assert driver.returncode == 0, log.read_text()
    assert tries.read_text().splitlines() == ["None", "{'step': 1}"]


def _die(tries: str) -> None:
    with Path(tries).open("a") as file:
        file.write("once more\n")
    os._exit(1)


@pytest.mark.usefixtures("ray_session")
def test_a_process_that_always_dies_ends_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "_FAILURES", 1)
    tries, recipe = tmp_path / "tries", _recipe(str(tmp_path))
    with pytest.raises(WorkerGroupError) as caught:
        trainers.fit(_die, {"tries": str(tries)}, Run(recipe.run_dir), "dying", 1, recipe)
    assert tries.read_text().splitlines() == ["once more"] * 2
    assert "worker process has died" in trainers.reason(caught.value, Run(recipe.run_dir))
