"""A training outlives any number of its nodes, but not a fault of its own that comes back."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, Result, WorkerGroupError

from ddps_ray.config import Recipe
from ddps_ray.pipeline import cluster as product
from ddps_ray.pipeline import trainers
from ddps_ray.storage import Run
from tests.faults.nodes import ENVIRONMENT, ROOT, cluster, until

QUICK = '{"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}'
"""A head that soon knows that a node is lost."""


def _linger(folder: str) -> None:
    """A training of several workers that keeps a state at once, and ends when it may; each breaks with the others."""
    state, rank = trainers.saved_state(Run(f"{folder}/run"), "lingering"), trainers.share().rank
    if rank == 0:
        with Path(folder, "tries").open("a") as tries:
            tries.write(f"{state}\n")
    if state is None:
        trainers.report({}, None if rank else {"step": 1})
        dist.barrier()
    until(lambda: _together(Path(folder, "go").exists()), "leave to end")


def _together(mine: bool) -> bool:
    """Whether it is so for rank 0."""
    asked = torch.tensor(mine)
    dist.broadcast(asked, 0)
    return bool(asked.item())


def _drive(folder: str) -> None:
    """Runs that training, which may not fail once."""
    recipe = _recipe(folder)
    product.connect(recipe)
    trainers._FAILURES = 0
    trainers.fit(_linger, {"folder": folder}, Run(recipe.run_dir), "lingering", 2, recipe)


def _recipe(folder: str) -> Recipe:
    values: dict[str, Any] = {"data": {"root": "unused"}, "model": {"path": "quickstart"}, "train_on_gpus": False}
    return Recipe.model_validate({"run_dir": f"{folder}/run", **values})


@pytest.mark.slow
def test_a_node_that_vanishes_is_no_failure_of_the_training(tmp_path: Path) -> None:
    log, tries = tmp_path / "log", tmp_path / "tries"
    program = f"from tests.faults import test_lost_nodes; test_lost_nodes._drive({str(tmp_path)!r})"
    with cluster(2, "--num-cpus=0", f"--system-config={QUICK}", cpus=1) as there, log.open("wb") as said:
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
@pytest.mark.slow
def test_a_process_that_always_dies_ends_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "_FAILURES", 1)
    tries, recipe = tmp_path / "tries", _recipe(str(tmp_path))
    with pytest.raises(WorkerGroupError) as caught:
        trainers.fit(_die, {"tries": str(tries)}, Run(recipe.run_dir), "dying", 1, recipe)
    assert tries.read_text().splitlines() == ["once more"] * 2
    assert "worker process has died" in trainers.reason(caught.value, Run(recipe.run_dir))


class _Starting(trainers.Trainer):
    """A training whose worker dies a few times just before it begins, in Ray's words; it cannot be timed for real."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.tries = deaths, 0

    def fit(self) -> Result:
        self.tries += 1
        if self.tries <= self.deaths:
            raise ControllerError(ActorDiedError())
        return Result(metrics=None, checkpoint=None, error=None, path="", return_value="done")


def test_a_worker_that_dies_just_before_it_begins_is_begun_again() -> None:
    assert trainers._fit(_Starting(deaths=3)).return_value == "done"
    with pytest.raises(ControllerError):
        trainers._fit(_Starting(deaths=4))
