"""Which file of a run is damaged: only that one is named, with what makes it again, and nothing intact ever is."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray.inspection import damage
from ddps_ray.storage import Run

ROWS = pa.table({"image_id": [f"train/fish/{number}.png" for number in range(5000)]})


def written(run_dir: Path, name: str) -> Path:
    path = run_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(ROWS, path, compression="zstd")
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def broken_inside(path: Path) -> None:
    """Its footer is as it was."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[4:middle] = b"\xff" * (middle - 4)
    path.write_bytes(data)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with files that are whole."""
    for name in ("manifest/train-0.parquet", "scores/0.parquet", "evaluation/0.parquet", "distilled/a/ipc=1/m.parquet"):
        written(tmp_path, name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("manifest/train-1.parquet", "delete it, and `ddps index` makes it again"),
        ("scores/1.parquet", "delete it, and `ddps score` makes it again"),
        ("checkpoints/score-5eed/1.parquet", "delete it, and `ddps score` makes it again"),
        ("checkpoints/pack-5eed/1.pending.parquet", "delete it, and `ddps pack` makes it again"),
        ("quarantine/score.parquet", "delete it, and `ddps score` makes it again"),
        ("quarantine/pack.parquet", "delete it: only the report reads it, which then lists these images no more"),
        (
            "quarantine/teacher-5eed.parquet",
            "delete it: only the report reads it, which then lists these images no more",
        ),
        ("distilled/a/ipc=10/metadata.parquet", "delete it, and `ddps distill` makes it again"),
        ("evaluation/1.parquet", "delete it, and `ddps evaluate` makes it again"),
    ],
)
def test_a_cut_file_is_named_with_what_to_do_about_it(run_dir: Path, name: str, said: str) -> None:
    assert damage.find(Run(str(run_dir))) is None
    cut(path := written(run_dir, name))
    found = damage.find(Run(str(run_dir)))
    assert found is not None
    assert found.startswith(f"{path} is damaged (Parquet magic bytes not found in footer): ")
    assert found.endswith(said)


def test_a_file_is_read_to_its_end_only_if_the_error_names_it(run_dir: Path) -> None:
    broken_inside(path := written(run_dir, "scores/1.parquet"))
    assert damage.find(Run(str(run_dir)), "ArrowInvalid: of another") is None
    found = damage.find(Run(str(run_dir)), f"while reading {path}")
    assert found is not None
    assert found.startswith(f"{path} is damaged (")


@pytest.mark.parametrize(
    "refusal",
    [OSError("When reading information for key 'a': AWS Error SLOW_DOWN"), PermissionError(13, "Permission denied")],
)
def test_a_store_that_fails_or_refuses_is_no_damage(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise refusal

    monkeypatch.setattr(pq, "ParquetFile", refused)
    with pytest.raises(type(refusal), match=str(refusal.args[-1])):
        damage.find(Run(str(run_dir)))


def test_a_file_that_another_job_takes_away_is_no_damage(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(pq.ParquetFile):  # type: ignore[misc]
        def __init__(self, path: str, **options: Any) -> None:
            Path(path).unlink()
            super().__init__(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", Taken)
    assert damage.find(Run(str(run_dir))) is None
    assert list(run_dir.rglob("*.parquet")) == []
