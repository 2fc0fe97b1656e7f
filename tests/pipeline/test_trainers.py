"""What trainings leave behind: bad images, each listed once; a state to go on from, or a line if it is damaged."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.train import TrainingFailedError

from ddps_ray import schemas
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import trainers
from ddps_ray.storage import Run


@pytest.mark.parametrize(
    ("node", "workers", "gpus", "wanted"),
    [
        ({"cpus": 16, "node_gpus": 0}, 1, 0, 16),
        ({"cpus": 16, "node_gpus": 0}, 3, 0, 5),
        ({"cpus": 4, "node_gpus": 0}, 64, 0, 1),  # of which it can have four
        ({"cpus": 16, "node_gpus": 4}, 32, 1, 4),  # as many as it has GPUs, wherever the others are
        ({"cpus": 16, "node_gpus": 4}, 2, 1, 8),
        ({"cpus": 16, "node_gpus": 1}, 32, 0.25, 4),
        ({"cpus": 16, "node_gpus": 1}, 32, 0.4, 8),  # two go on a GPU
        ({"cpus": 64, "node_gpus": 0}, 1, 0, 32),  # Ray was told of more than there are
        ({"cpus": 0, "node_gpus": 1}, 1, 1, 32),  # and of none
    ],
)
def test_a_worker_has_its_part_of_its_node(node: dict[str, float], workers: int, gpus: float, wanted: int) -> None:
    assert trainers.threads(cores=32, workers=workers, gpus=gpus, **node) == wanted


def _rows(*uris: str) -> pa.Table:
    columns = {key: list(uris) for key in ("image_id", "uri")}
    columns |= {"stage": ["evaluate"] * len(uris), "reason": ["empty file"] * len(uris)}
    return schemas.table(columns, schemas.QUARANTINE)


def _listed(run_dir: Path) -> list[str]:
    files = sorted((run_dir / "quarantine").iterdir())
    assert all(file.name.startswith("evaluate-") for file in files)
    return sorted(row["uri"] for file in files for row in pq.read_table(file).to_pylist())


def test_bad_images_are_written_by_class_whatever_that_is_called(tmp_path: Path) -> None:
    uris = ["/data/1.jpg", "/data/2.jpg", "s3://bucket/x.tar?region=eu#bytes=512+10", "/val.parquet#column=img&row=7"]
    for _ in range(2):  # as each seed does, which meets the same images
        trainers.write_quarantine(Run(str(tmp_path)), "evaluate", _rows(*uris), ["a/b", "a/b", "é" * 250, "a-b"])
    assert _listed(tmp_path) == sorted(uris)
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


def test_a_subset_of_the_classes_forgets_no_bad_image_of_the_others(tmp_path: Path) -> None:
    uris = ["/val/1.jpg", "/val/2.jpg", "/val/3.jpg"]  # all in one folder
    trainers.write_quarantine(Run(str(tmp_path)), "evaluate", _rows(*uris), ["a", "b", "c"])
    trainers.write_quarantine(Run(str(tmp_path)), "evaluate", _rows(uris[2]), ["c"])
    assert _listed(tmp_path) == uris


def fails() -> None:
    """What a worker does that has no memory left."""
    raise RuntimeError("the allocator says:\nno memory for 3 GiB")


def test_the_reason_of_a_failure_is_the_workers_own(ray_session: None, tmp_path: Path) -> None:
    values = {"run_dir": str(tmp_path), "data": {"root": "unused"}, "model": {"path": "quickstart"}}
    run = Run(str(tmp_path))
    with pytest.raises(TrainingFailedError) as failure:
        trainers.fit(fails, {}, run, "fails", 1, Recipe.model_validate(values))
    assert trainers.reason(failure.value, run).endswith("no memory for 3 GiB")
    assert trainers.reason(OSError(28, "No space left on device", "/disk/x"), run).startswith(
        "/disk/x: no space is left"
    )
    assert trainers.reason(ValueError("odd"), run) == "ValueError: odd"


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """What Ray Train and a worker leave of a training that was killed: a list of states, and one of them."""
    folder = tmp_path / "checkpoints" / "teacher"
    (state := folder / "checkpoint_2026-01-01_00-00-00.000001").mkdir(parents=True)
    torch.save({"epochs": 3, "weights": torch.zeros(1000)}, state / "state.pt")
    listed = {"checkpoint_results": [{"checkpoint_dir_name": state.name}], "latest_checkpoint_result": None}
    (folder / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    return folder


def _begins_anew(training: Path) -> str:
    folder = re.escape(str(training))
    return rf"^{folder}: the state of the training is damaged \(.+\): delete this folder, and the training begins anew$"


@pytest.mark.parametrize("size", [-1, 100, 0])
def test_a_list_of_states_that_was_cut_is_told_before_the_training(training: Path, tmp_path: Path, size: int) -> None:
    trainers._check_snapshot(run := Run(str(tmp_path)), "teacher")
    file = training / "checkpoint_manager_snapshot.json"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=_begins_anew(training)):
        trainers._check_snapshot(run, "teacher")


def test_a_listed_state_that_is_missing_is_told_before_the_training(training: Path, tmp_path: Path) -> None:
    shutil.rmtree(next(training.glob("checkpoint_2*")))
    with pytest.raises(UserError, match=_begins_anew(training)):
        trainers._check_snapshot(Run(str(tmp_path)), "teacher")


def test_states_whose_list_was_cut_are_dropped_where_a_training_is_short(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainers.drop_cut_states(run := Run(str(tmp_path)), "teacher")
    assert training.exists()
    assert not capsys.readouterr().out
    file = training / "checkpoint_manager_snapshot.json"
    file.write_bytes(file.read_bytes()[:100])
    trainers.drop_cut_states(run, "teacher")
    assert not training.exists()
    assert capsys.readouterr().out.startswith(f"warning: {training}: the state of the training is damaged (")


@pytest.mark.parametrize("size", [None, 0, 100, -100])
def test_a_state_that_was_cut_or_is_gone_is_told(training: Path, tmp_path: Path, size: int | None) -> None:
    (file,) = training.glob("*/state.pt")
    assert trainers._loaded(file, Run(str(tmp_path)), "teacher")["epochs"] == 3
    if size is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=_begins_anew(training)):
        trainers._loaded(file, Run(str(tmp_path)), "teacher")
