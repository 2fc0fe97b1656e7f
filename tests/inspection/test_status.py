"""`ddps status` at each moment of a run's life, from its files alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ddps_ray import cli
from ddps_ray.inspection.beat import FAILED, FINISHED, RUNNING, Beat
from ddps_ray.storage import Run

BEAT = Beat(
    state=RUNNING,
    total=12,
    before=2,
    scored=4,
    safe=5,
    errors=1,
    seconds=8.0,
    actors=2,
    busy=0.75,
    time="2026-01-01T00:00:00.000+00:00",
)
"""Four images in 8 s by two actors: 0.5/s together, 0.25/s each, and 6 of 12 are left, which take 12 s."""
WORDS = "6 of 12 images (5 safe), 0.50 a second on 2 actors, busy 75%, 1 errors"


def status(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert cli.main(["status", run.uri]) == 0
    return capsys.readouterr().out.splitlines()


def beat(run: Run, age: float, state: str = RUNNING) -> None:
    time = datetime.now(UTC) - timedelta(seconds=age)
    replace(BEAT, state=state, time=time.isoformat(timespec="milliseconds")).write(run)


def test_before_scoring_there_is_a_line_for_the_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(str(tmp_path / "run"))
    run.claim("index", {})
    assert [line.split(" begun ")[0] for line in status(run, capsys)] == ["index "]
    assert status(run, capsys)[0].endswith("UTC, not finished")
    run.finish("index", {"images": 13, "splits": {"train": 12, "val": 1}, "fingerprint": "5eed"})
    assert status(run, capsys)[0].endswith("UTC: 13 images, 12 train and 1 val")


def test_a_job_without_a_heartbeat_yet_tells_what_is_safe(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(begun, capsys)[1] == "score  begun, 5 images safe"


def test_a_running_job_tells_rates_and_what_is_left(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    beat(begun, age=0)
    line = status(begun, capsys)[1]
    assert line.startswith(f"score  running: {WORDS}, about 12 s left; last heard of ")
    assert "killed" not in line
    beat(begun, age=-3600)  # the other machine's clock is an hour ahead
    assert status(begun, capsys)[1].endswith("; last heard of 0 s ago")


def test_a_job_that_fell_silent_may_be_gone(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    beat(begun, age=3 * 3600)
    heard = "about 12 s left; last heard of 3 h 0 min ago"
    advice = "if the job was killed, the same command goes on from the images that are safe"
    assert status(begun, capsys)[1] == f"score  running: {WORDS}, {heard}: {advice}"


def test_a_failed_job_is_said_to_have_failed(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    beat(begun, age=1800, state=FAILED)
    assert status(begun, capsys)[1] == f"score  failed: {WORDS}; last heard of 30 min ago"


def test_a_finished_run_tells_its_counts(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    beat(finished, age=1, state=FINISHED)
    index, score = status(finished, capsys)
    assert index.endswith("UTC: 13 images")
    assert score.endswith("UTC: 12 images, 2 quarantined, 0 repeated, 10 scored")
    finished.reopen("score")  # for images that failed, or are new
    assert status(finished, capsys)[1] == "score  begun, 12 images safe"


def test_sets_of_one_name_are_told_apart(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"selector": "ddps", "ipc": 2, "size": 32}
    for stage, seed in {"distill/ddps/ipc=2": 0, "distill/ddps/ipc=2~0badc0de": 1, "distill/other/ipc=2": 0}.items():
        finished.claim(stage, own | {"seed": seed})
    finished.finish("distill/ddps/ipc=2~0badc0de", {"images": 6, "classes": 3, "scores": "5eed"})
    lines = {line.split()[0]: line for line in status(finished, capsys)}
    assert lines["distill/ddps/ipc=2"].endswith(" UTC, not finished; seed=0")
    assert lines["distill/ddps/ipc=2~0badc0de"].endswith(": 3 classes, 6 images; seed=1")
    assert lines["distill/other/ipc=2"].endswith(" UTC, not finished")


def test_what_is_no_run_directory_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path / "absent")]) == 2
    (tmp_path / "thesis.tex").write_text("mine")
    assert cli.main(["status", str(tmp_path)]) == 2
    absent, foreign = capsys.readouterr().err.splitlines()
    assert absent == f"ddps: {tmp_path / 'absent'} is not a run directory, or nothing was begun in it"
    assert foreign.startswith(f"ddps: run_dir: {tmp_path} is not empty and has no run.json")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
