"""Jobs on a local head with logical GPUs; one that is killed in the middle and submitted again loses nothing."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors

from tests.faults.nodes import ROOT, Node, free_port, until


@pytest.fixture(scope="module")
def jobs() -> Iterator[JobSubmissionClient]:
    """A Ray head of its own, on loopback, with two GPUs that exist in name only; no other Ray is touched."""
    dashboard, temp = free_port(), tempfile.mkdtemp(prefix="ray-")  # short: sockets lie below it
    ports = [f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    ports += ["--dashboard-host=127.0.0.1", f"--temp-dir={temp}"]
    head = Node("--head", "--num-cpus=4", "--num-gpus=2", *ports)
    clients: list[JobSubmissionClient] = []

    def answers() -> bool:
        try:
            clients.append(JobSubmissionClient(f"http://127.0.0.1:{dashboard}"))
        except (ConnectionError, RuntimeError):
            return False
        return True

    try:
        until(answers, "the head's job server")
        yield clients[0]
    finally:
        head.kill()
        shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture
def recipe(tmp_path: Path, scenes: Path, tiny_sd: Path) -> Path:
    values = {
        "run_dir": str(tmp_path / "run"),
        "data": {"root": str(scenes), "val": None},
        "model": {"path": str(tiny_sd)},
        "score": {"size": 64, "patch": 32, "pairs": 60, "judge": "skip", "batch": 5, "rows_per_shard": 10},
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}, "epochs": 1},
        "evaluate": {"size": 64},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def _submit(jobs: JobSubmissionClient, command: str, recipe: Path) -> str:
    entrypoint = f"{sys.executable} jobs/ddps.py {command} --config {recipe}"
    runtime = {"working_dir": str(ROOT), "excludes": [".git", "*-run"]}
    submitted: list[str] = []

    def accepted() -> bool:
        """A head that has just begun has a job server before it has an agent that takes jobs."""
        try:
            submitted.append(str(jobs.submit_job(entrypoint=entrypoint, runtime_env=runtime)))
        except RuntimeError:
            return False
        return True

    until(accepted, "the job to be accepted")
    return submitted[0]


def _finish(jobs: JobSubmissionClient, job: str) -> str:
    until(lambda: jobs.get_job_status(job).is_terminal(), f"job {job}")
    logs = str(jobs.get_job_logs(job))
    assert jobs.get_job_status(job) == JobStatus.SUCCEEDED, logs
    return logs


def _living_scorers(jobs: JobSubmissionClient) -> list[object]:
    alive = list_actors(address=jobs.get_address(), filters=[("state", "=", "ALIVE")])
    return [actor for actor in alive if "ScoringActor" in actor["class_name"]]


def _shards(run_dir: Path, folder: str) -> dict[Path, list[str]]:
    shards = {}
    for file in run_dir.glob(f"{folder}/*.parquet"):
        if not file.name.endswith(".pending.parquet"):
            shards[file] = pq.read_table(file, columns=["image_id"]).column("image_id").to_pylist()
    return shards


def test_a_killed_job_submitted_again_scores_only_what_is_missing(jobs: JobSubmissionClient, recipe: Path) -> None:
    run_dir = recipe.parent / "run"
    _finish(jobs, _submit(jobs, "index", recipe))
    job = _submit(jobs, "score", recipe)
    until(lambda: len(_shards(run_dir, "checkpoints/score-*")) >= 3, "three commits")
    os.kill(int(jobs.get_job_info(job).driver_info.pid), signal.SIGKILL)
    until(lambda: jobs.get_job_status(job).is_terminal(), "the killed job's end")
    assert jobs.get_job_status(job) == JobStatus.FAILED

    until(lambda: not _living_scorers(jobs), "the killed job's scorers to end")
    before = {image_id for ids in _shards(run_dir, "checkpoints/score-*").values() for image_id in ids}
    assert 0 < len(before) < 120, "the job was to be killed in the middle"
    kept = {file: file.stat().st_mtime_ns for file in _shards(run_dir, "scores")}

    logs = _finish(jobs, _submit(jobs, "score", recipe))
    after = _shards(run_dir, "scores")
    ids = [image_id for shard in after.values() for image_id in shard]
    manifest = [i for shard in _shards(run_dir, "manifest").values() for i in shard]
    assert sorted(ids) == sorted(manifest), "every id once"
    again = {
        image_id for file, shard in after.items() if kept.get(file) != file.stat().st_mtime_ns for image_id in shard
    }
    assert again == set(manifest) - before, "only the missing ones were scored"
    assert f"{len(before)} of 120 were done before" in logs


def test_a_training_runs_on_a_gpu_that_exists_in_name_only(jobs: JobSubmissionClient, recipe: Path) -> None:
    _finish(jobs, _submit(jobs, "index", recipe))
    assert "teacher: epoch 1 of 1" in _finish(jobs, _submit(jobs, "teacher", recipe))
