"""A training outlives any number of its nodes, but not a fault of its own that comes back."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ddps_ray.config import Recipe
from ddps_ray.pipeline import trainers
from ddps_ray.storage import Run
from tests.faults.nodes import ENVIRONMENT, ROOT, cluster, until
from tests.students import inputs

UNFORGIVING = "from ddps_ray import cli; from ddps_ray.pipeline import trainers; trainers._FAILURES = 0; cli.main()"
"""The command line, where a training may not fail once."""
QUICK = '{"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}'
"""A head that soon knows that a node is lost."""


def _recipe(run_dir: Path, epochs: int = 1) -> Recipe:
    values = {
        "run_dir": str(run_dir),
        "data": {"root": "unused"},
        "model": {"path": "quickstart"},
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}, "epochs": epochs},
        "evaluate": {"size": 16},
    }
    return Recipe.model_validate(values)


def test_a_node_that_vanishes_is_no_failure_of_the_training(scenes: Path, tmp_path: Path) -> None:
    inputs.indexed(tmp_path / "run", scenes)
    (file := tmp_path / "run.yaml").write_text(yaml.safe_dump(_recipe(tmp_path / "run", 200).model_dump(mode="json")))
    said = tmp_path / "said.txt"
    with cluster(1, "--num-cpus=0", f"--system-config={QUICK}") as there, said.open("w") as log:
        command = [sys.executable, "-c", UNFORGIVING, "teacher", "--config", str(file)]
        environment = {**ENVIRONMENT, "RAY_ADDRESS": there.address}
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        until(lambda: "epoch 3 of 200" in said.read_text() or driver.poll() is not None, "three epochs")
        there.lose(there.workers[0])
        there.add_worker()
        before = len(said.read_text())
        assert driver.wait(240) == 0, said.read_text()
    later = said.read_text()[before:]
    assert "epoch 200 of 200" in later
    assert "epoch 1 of 200" not in later, "it went on from its state"


def _die(tries: str) -> None:
    with Path(tries).open("a") as file:
        file.write("once more\n")
    os._exit(1)


@pytest.mark.usefixtures("ray_session")
def test_a_process_that_always_dies_ends_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "_FAILURES", 1)
    tries, recipe = tmp_path / "tries.txt", _recipe(tmp_path / "run")
    with pytest.raises(trainers.ray.train.WorkerGroupError) as caught:
        trainers.fit(_die, {"tries": str(tries)}, Run(recipe.run_dir), "teacher", 1, recipe)
    assert tries.read_text().splitlines() == ["once more"] * 2
    assert re.match(r"its process died 2 times: .*exit", trainers.reason(caught.value))


def test_the_reason_of_a_failure_is_what_a_worker_raised() -> None:
    error = RuntimeError("CUDA out of memory: tried to allocate 2 GiB\nmore")
    said = trainers.reason(trainers.ray.train.WorkerGroupError("[Rank 0 Error Snippet]:\n", {0: error}))
    assert said == "RuntimeError: CUDA out of memory: tried to allocate 2 GiB"
