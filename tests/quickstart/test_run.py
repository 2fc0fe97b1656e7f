"""`ddps quickstart` as a user types it, with less of everything; and the weights that come with the package."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ddps_ray.quickstart.objects import BOXES_FILE
from ddps_ray.report.localisation import measure
from ddps_ray.storage import Run

LESS = ["score.pairs=4", "teacher.epochs=1", "evaluate.epochs=2", "distill.sets.ddps.ipc=[1,10]"]


def _quickstart(out: Path) -> str:
    command = [sys.executable, "-m", "ddps_ray.cli", "quickstart", "--out", str(out)]
    for setting in [*LESS, "distill.sets.random.ipc=[1,10]"]:
        command += ["--set", setting]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("quickstart") / "out"
    return out, _quickstart(out)


def test_it_makes_all_that_it_promises(first: tuple[Path, str]) -> None:
    out, said = first
    assert "<html" in (out / "run" / "report" / "index.html").read_text()
    images = {path.parent.name for path in (out / "run" / "distilled" / "ddps" / "ipc=10" / "train").rglob("*.png")}
    assert len(images) == 10
    rows = [pq.read_table(file).to_pylist()[0] for file in (out / "run" / "evaluation").glob("*.parquet")]
    assert {(row["set_name"], row["ipc"], row["seed"]) for row in rows} == {
        (name, 1, seed) for name in ("ddps", "random") for seed in (0, 1, 2)
    }
    assert "1000 images scored, 0 in quarantine" in said


def test_the_bundled_model_finds_the_objects(first: tuple[Path, str]) -> None:
    out, _ = first
    found = measure(Run(str(out / "run")), str(out / "data" / BOXES_FILE))
    shares = {place.name: place.holds.mean for place in found.placements}
    assert shares["chosen"] > 0.5 > 3 * shares["random"]
    assert shares["lowest"] < shares["random"]


def test_a_second_time_it_has_nothing_to_do(first: tuple[Path, str]) -> None:
    out, _ = first
    said = _quickstart(out)
    for stage in ("index", "score", "distill", "teacher"):
        assert any(line.startswith(stage) and "already finished" in line for line in said.splitlines()), stage
