"""`ddps verify` on a run that is sound, and on copies that are damaged in one way each: lines, and the exit code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray import cli, schemas
from ddps_ray.storage import Run
from tests.inspection.conftest import BAD, shard
from tests.selection.rows import SCHEMA


def verify(run: Run, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = cli.main(["verify", run.uri])
    return code, capsys.readouterr().out.splitlines()


def change(path: Path, place: int, **values: Any) -> None:
    """Writes other values into one row of a shard."""
    rows = pq.read_table(path).to_pylist()
    rows[place] |= values
    pq.write_table(schemas.table({name: [row[name] for row in rows] for name in SCHEMA.names}, SCHEMA), path)


def state(run: Run) -> dict[str, tuple[bytes, int]]:
    files = (path for path in Path(run.uri).rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_sound_run_is_exit_code_0_and_nothing_is_written(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(finished)
    assert verify(finished, capsys) == (0, ["verify: 3 shards, 12 rows, 0 things wrong"])
    assert state(finished) == before


def cut_in_the_middle(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbled_page(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])


def another_schema(path: Path) -> None:
    rows = pq.read_table(path)
    place = rows.schema.get_field_index("typicality")
    pq.write_table(rows.set_column(place, "typicality", rows["typicality"].cast(pa.float64())), path)


def no_error_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns("error"), path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_in_the_middle, "is not a whole Parquet file"),
        (garbled_page, "cannot be read: "),
        (another_schema, "has not the columns of a score shard"),
        (no_error_column, "has not the columns of a score shard"),
    ],
)
def test_a_damaged_shard_is_named_and_its_images_are_missing(
    damage: Callable[[Path], None], said: str, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard(Path(finished.uri), 2)
    damage(path)
    code, lines = verify(finished, capsys)
    assert code == 1
    assert lines[0].startswith(f"verify: {path} {said}")
    assert "verify: 2 of 12 images have no row, train/sign/2.png is the first" in lines


def test_shards_from_before_a_column_are_sound(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path(finished.uri, "scores").glob("*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.drop_columns("typicality_error"), path, row_group_size=128)
    assert verify(finished, capsys) == (0, ["verify: 3 shards, 12 rows, 0 things wrong"])


def repeated_id(first: Path) -> None:
    change(first, 1, image_id="train/fish/0.png")


def unknown_id(first: Path) -> None:
    change(first, 1, image_id="val/fish/0.png")


def other_class(first: Path) -> None:
    change(first, 1, class_id="sign")


def other_label(first: Path) -> None:
    change(first, 1, label=2)


def nan_without_error(first: Path) -> None:
    change(first, 1, typicality=float("nan"))


def null_without_error(first: Path) -> None:
    change(first, 1, typicality=None)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (repeated_id, "1 images are there more than once, train/fish/0.png is one"),
        (unknown_id, "1 images are not in the manifest, val/fish/0.png is one"),
        (other_class, "1 images have another class_id than in the manifest, train/fish/1.png is one"),
        (other_label, "1 images have another label than in the manifest, train/fish/1.png is one"),
        (nan_without_error, "1 images have neither a finite typicality nor an error, train/fish/1.png is one"),
        (null_without_error, "1 images have neither a finite typicality nor an error, train/fish/1.png is one"),
    ],
)
def test_a_wrong_row_is_named(
    damage: Callable[[Path], None], said: str, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(shard(Path(finished.uri), 0))
    code, lines = verify(finished, capsys)
    assert code == 1
    assert lines[0] == f"verify: {said}"
    assert lines[-1] == "verify: 3 shards, 12 rows, 1 things wrong"


def test_a_quarantine_that_differs_is_named(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(finished.uri) / "quarantine" / "score.parquet"
    rows = pq.read_table(path)
    assert rows["image_id"].to_pylist() == list(BAD)
    pq.write_table(rows.slice(1), path)
    code, lines = verify(finished, capsys)
    assert (code, lines[0]) == (1, f"verify: 2 images have an error, but {path} has 1, or others")
    path.unlink()
    code, lines = verify(finished, capsys)
    assert code == 1
    assert lines[0].startswith(f"verify: {path} cannot be read: ")


def test_a_run_in_the_middle_is_exit_code_3(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    missing = "verify: 7 of 12 images have no row, train/leaf/1.png is the first"
    assert verify(begun, capsys) == (3, [missing, "verify: 1 shards, 5 rows, 0 things wrong"])
    shard(Path(begun.uri), 1).write_bytes(b"PAR1")  # as a worker leaves it while it writes
    code, lines = verify(begun, capsys)
    assert code == 3
    assert lines == [
        "verify: 1 files are being written, or were cut off: `ddps score` makes them again",
        missing,
        "verify: 1 shards, 5 rows, 0 things wrong",
    ]


def test_a_directory_without_scores_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(str(tmp_path / "run"))
    assert cli.main(["verify", run.uri]) == 2
    assert capsys.readouterr().err.endswith("run `ddps index` first\n")
    run.claim("index", {})
    run.finish("index", {})
    assert cli.main(["verify", run.uri]) == 2
    assert capsys.readouterr().err == f"ddps: {run.uri} has no scores: run `ddps score` first\n"
