"""Trainings that share a GPU, on nodes with GPUs that exist in name only."""

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.pipeline import cluster, evaluate, trainers
from ddps_ray.storage import Run
from tests.faults import nodes
from tests.faults.nodes import until
from tests.pipeline import test_evaluate as evaluation

DRIVER = """
import sys
from pathlib import Path
from tests.faults import test_shares

getattr(test_shares, sys.argv[1])(sys.argv[2], Path(sys.argv[3]))
"""


def work(notes: str, name: str, others: list[str]) -> None:
    """What a worker does: notes that it has begun, and does not end before the others have, too."""
    with (Path(notes) / name).open("a") as file:
        file.write(f"{torch.get_num_threads()}\n")
    until(lambda: all((Path(notes) / other).exists() for other in others), f"{others} at the same time as {name}")


def recipe(address: str, folder: Path, **evaluation: Any) -> Recipe:
    values = {"run_dir": str(folder / "run"), "data": {"root": "unused"}, "model": {"path": "quickstart"}}
    return config.parse({**values, "address": address, "evaluate": evaluation}, "test")


def together(address: str, folder: Path) -> None:
    """A driver: two trainings of half a GPU each."""
    made = recipe(address, folder)
    cluster.connect(made)
    assert [trainers.slots(1, made, gpus) for gpus in (1, 0.7, 0.5, 0.4, 0.3334, 0.3333, 0.25)] == [1, 1, 2, 2, 2, 3, 4]
    (notes := folder / "notes").mkdir()
    names, errors = ["a", "b"], list[Exception]()

    def train(name: str) -> None:
        arguments = {"notes": str(notes), "name": name, "others": names}
        try:
            trainers.fit(work, arguments, Run(made.run_dir), name, 1, made, together=2, gpus=0.5)
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver says it
            errors.append(error)

    threads = [threading.Thread(target=train, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def all_students(address: str, folder: Path) -> None:
    """A driver: the stage, with students of half a GPU each."""
    made = evaluation.recipe(folder / "run", sets=["chance"], gpus=0.5)
    evaluate.run(made.model_copy(update={"address": address}))


def _drive(what: str, address: str, folder: Path) -> list[str]:
    """Runs a driver, and returns what it has said."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, what, address, str(folder)],
        env=nodes.ENVIRONMENT,
        cwd=nodes.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_two_students_share_a_gpu(tmp_path: Path, scenes: Path) -> None:
    with nodes.cluster(0) as made:
        made.add_worker(cpus=1)
        _drive("together", made.address, tmp_path)
        # Each was begun once, and has one thread: their node has one CPU, whatever the head has.
        assert {file.name: file.read_text() for file in (tmp_path / "notes").iterdir()} == {"a": "1\n", "b": "1\n"}
        evaluation.prepare(
            tmp_path / "evaluated", scenes, recipe_of := evaluation.recipe(tmp_path / "evaluated" / "run")
        )
        said = _drive("all_students", made.address, tmp_path / "evaluated")
        assert [(row["set_name"], row["seed"]) for row in evaluation.rows(recipe_of)] == [("chance", 0), ("chance", 1)]
    # Each result is the driver's own line: Ray takes those of workers that differ in numbers alone for repetitions.
    results = [line for line in said if re.match(r"evaluate/chance/ipc=12/convnet2-w4/rded, seed \d: \d+\.\d%", line)]
    assert sorted(line.partition(":")[0][-6:] for line in results) == ["seed 0", "seed 1"]
