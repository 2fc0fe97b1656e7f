"""What a person at a terminal sees: a run says our lines alone; Ctrl-C, a full disk and a damaged file are one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.faults.nodes import ENVIRONMENT, ROOT

OURS = re.compile(
    r"(run|index|score|distill( \S+|/\S+)?|teacher|evaluate(/\S+, seed \d+)?|report|pretrain)?: \S.*"
    r"|(set|ddps) +(ipc|\d+) .*"  # the table of accuracies
)
ENDLESS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a task": ("score", {}, "score: trying the judge"),
    "actors": ("score", {"score": {"pairs": 40, "judge": "skip"}}, r"score: \d+ of 120 images"),
    "a training": ("teacher", {"teacher": {"epochs": 4000}}, "teacher: epoch"),
    "trainings": ("evaluate", {"evaluate": {"epochs": 10**6}}, "evaluate: 0 of 2 students trained"),
}
"""By what a driver waits for: the stage, what makes it last, and what it says when it is at work.

Index, pack, distill and report wait for tasks, and pretraining for a training that is started as the teacher's.
"""


def values(folder: Path, scenes: Path) -> dict[str, Any]:
    return {
        "run_dir": str(folder / "run"),
        "data": {"root": str(scenes)},
        "model": {"path": "quickstart"},
        "score": {"size": 64, "patch": 32, "pairs": 2, "timesteps": [700, 950]},
        "distill": {"size": 32, "clusters": 3, "top_clusters": 2, "sets": {"ddps": {"ipc": [1]}}},
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}, "epochs": 2},
        "evaluate": {
            "size": 32,
            "students": [{"arch": "convnet2", "width": 4}],
            "seeds": [0, 1],
            "epochs": 2,
        },
    }


def recipe(folder: Path, scenes: Path, **changes: Any) -> str:
    made = values(folder, scenes)
    for name, section in changes.items():
        made[name] = section if isinstance(section, str) else {**made.get(name, {}), **section}
    file = folder / f"{len(list(folder.glob('*.yaml')))}.yaml"
    file.write_text(yaml.safe_dump(made))
    return str(file)


def start(*words: str) -> subprocess.Popen[str]:
    """A command as a terminal starts it: in a process group of its own, without a Ray that it could join."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddps_ray.cli", *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ddps(*words: str) -> tuple[int, list[str], list[str]]:
    """Exit code, and the lines of stdout and stderr."""
    out, err = (process := start(*words)).communicate(timeout=300)
    return process.returncode, out.splitlines(), err.splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> tuple[Path, list[str]]:
    """A folder with a finished run, and all that the command has said."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = ddps("run", "--config", recipe(folder, scenes))
    assert code == 0, err
    return folder, out + err


def test_a_run_says_our_lines_alone(whole: tuple[Path, list[str]]) -> None:
    _, said = whole
    assert [line for line in said if not OURS.fullmatch(line)] == []
    for stage in ("index", "score", "distill", "teacher", "evaluate", "report"):
        assert any(line.startswith(stage) for line in said)
    seeds = [line for line in said if re.search(r"seed \d: ", line)]
    assert len(seeds) == 2, "each result, whatever Ray takes for a repetition"
    assert said[0].startswith("run: starting ddps ")


@pytest.mark.parametrize("waits_for", ENDLESS)
def test_ctrl_c_is_130_and_one_line_and_nothing_is_left(
    waits_for: str, whole: tuple[Path, list[str]], tmp_path: Path, scenes: Path
) -> None:
    stage, changes, at_work = ENDLESS[waits_for]
    shutil.copytree(whole[0] / "run", tmp_path / "run")
    forget(tmp_path / "run", stage)
    process = start(stage, "--config", recipe(tmp_path, scenes, **changes))
    assert process.stdout
    said = iter(process.stdout.readline, "")
    assert any(re.search(at_work, line) for line in said), process.stderr and process.stderr.read()
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) > 3
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["ddps: interrupted; the same command goes on from here"]
    _, left = psutil.wait_procs(family, timeout=60)
    assert left == []


def forget(run: Path, stage: str) -> None:
    """Takes a stage out of a run's record, and its files."""
    record = json.loads((run / "run.json").read_text())
    record["stages"] = {name: entry for name, entry in record["stages"].items() if name.split("/")[0] != stage}
    (run / "run.json").write_text(json.dumps(record))
    for folder in {"score": ("scores", "checkpoints"), "evaluate": ("evaluation",)}.get(stage, (stage,)):
        shutil.rmtree(run / folder, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    for _ in range(50):
        if subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)


@pytest.mark.parametrize("stage", ["score", "teacher", "distill"])
def test_a_full_disk_is_one_line(
    stage: str, whole: tuple[Path, list[str]], small_disk: Path, tmp_path: Path, scenes: Path
) -> None:
    run = small_disk / "run"
    shutil.copytree(whole[0] / "run", run)
    forget(run, stage)
    sets = {"more": {"ipc": [12], "selector": "random"}}
    kinds: dict[str, dict[str, Any]] = {
        "score": {"score": {"store_terms": True, "judge": "skip"}},
        "teacher": {"teacher": {"model": {"arch": "convnet2", "width": 64}}},
        "distill": {"distill": {"size": 512, "mosaic_up_to": 0, "sets": sets}},
    }
    changes = kinds[stage]
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(b"\0" * (free - 100_000))
    code, _, err = ddps(stage, "--config", recipe(tmp_path, scenes, **changes, run_dir=str(run)))
    assert code == 2, err
    assert len(err) == 1, err
    assert re.match(rf"ddps: {small_disk}\S*: no space is left there: make room, and the same command goes on", err[0])


def test_a_damaged_shard_is_named_with_what_makes_it_again(
    whole: tuple[Path, list[str]], tmp_path: Path, scenes: Path
) -> None:
    shutil.copytree(whole[0] / "run", tmp_path / "run")
    (shard,) = (tmp_path / "run" / "scores").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    sets = {"other": {"ipc": [1]}}
    code, _, err = ddps("distill", "--config", recipe(tmp_path, scenes, distill={"sets": sets}))
    assert code == 2
    (line,) = err
    assert line.startswith(f"ddps: {shard} is damaged (")
    assert line.endswith("delete it, and `ddps score` makes it again")
    code, out, _ = ddps("score", "--config", recipe(tmp_path, scenes))
    assert (code, "score: 120 images scored, 0 in quarantine" in out[-1]) == (0, True)
