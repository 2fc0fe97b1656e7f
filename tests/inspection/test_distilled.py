"""`ddps verify` of distilled sets: each is whole, or what is wrong with it is said."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ddps_ray import cli, schemas, storage
from ddps_ray.storage import Run
from tests.selection.rows import scored

IPC = 2
STAGES = {"distill/ddps/ipc=2": 0, "distill/ddps/ipc=2~0badc0de": 1}


def _row(class_id: str, number: int, slot: int) -> dict[str, Any]:
    own = {"file": f"train/{class_id}/{number:05d}.png", "slot": slot, "class_id": class_id, "width": 8, "height": 8}
    none = dict.fromkeys(("cluster", "cluster_typicality", "rank"))
    row = scored(f"train/{class_id}/{4 * number + slot}.png", 0, 0.0, 0.5) | own | none | {"reason": "random"}
    return {name: row[name] for name in schemas.DISTILLED.names}


@pytest.fixture
def distilled(finished: Run) -> Run:
    """A run with two sets of mosaics of one name, two images of each of two classes."""
    rows = [_row(class_id, n, slot) for class_id in ("fish", "leaf") for n in range(IPC) for slot in range(4)]
    for stage, seed in STAGES.items():
        finished.claim(stage, {"selector": "random", "seed": seed, "ipc": IPC, "composition": "mosaic"})
        folder = finished.path("distilled", *stage.split("/")[1:])
        for file in {row["file"] for row in rows}:
            storage.write_bytes(storage.join(folder, file), b"an image")
        columns = {name: [row[name] for row in rows] for name in schemas.DISTILLED.names}
        storage.write_table(storage.join(folder, "metadata.parquet"), schemas.table(columns, schemas.DISTILLED))
        finished.finish(stage, {"images": 4, "classes": 2, "scores": "5eed"})
    return finished


def _verify(run: Run, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    capsys.readouterr()
    return cli.main(["verify", run.uri]), capsys.readouterr().out.splitlines()


def test_whole_sets_are_told_apart(distilled: Run, capsys: pytest.CaptureFixture[str]) -> None:
    distilled.claim("distill/begun/ipc=2", {"selector": "random", "ipc": 2})
    assert _verify(distilled, capsys) == (
        0,
        [
            "verify: distill/ddps/ipc=2: whole; seed=0",
            "verify: distill/ddps/ipc=2~0badc0de: whole; seed=1",
            "verify: 3 shards, 12 rows, 0 things wrong",
        ],
    )


def test_a_set_that_was_deleted_is_said_and_is_no_damage(distilled: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(distilled.path("distilled", "ddps", "ipc=2"))
    code, lines = _verify(distilled, capsys)
    assert code == 0
    assert lines[0].startswith("verify: distill/ddps/ipc=2: was deleted; ")
    assert lines[1:] == [
        "verify: distill/ddps/ipc=2~0badc0de: whole; seed=1",
        "verify: 3 shards, 12 rows, 0 things wrong",
    ]


def _lose_all(folder: Path) -> None:
    (folder / "metadata.parquet").unlink()


def _garble(folder: Path) -> None:
    (folder / "metadata.parquet").write_bytes(b"PAR1" * 9)


def _without_column(folder: Path) -> None:
    file = folder / "metadata.parquet"
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns("label"), file)


def _lose(folder: Path) -> None:
    (folder / "train" / "leaf" / "00001.png").unlink()


def _empty(folder: Path) -> None:
    (folder / "train" / "fish" / "00000.png").write_bytes(b"")


def _add(folder: Path) -> None:
    (folder / "train" / "leaf" / "00002.png").write_bytes(b"an image")


def _cut_rows(folder: Path, start: int) -> None:
    file = folder / "metadata.parquet"
    pq.write_table(pq.read_table(file, partitioning=None).slice(start), file)


def _without_an_image(folder: Path) -> None:
    _cut_rows(folder, 4)
    (folder / "train" / "fish" / "00000.png").unlink()


def _without_a_class(folder: Path) -> None:
    _cut_rows(folder, 8)
    shutil.rmtree(folder / "train" / "fish")


def _without_a_patch(folder: Path) -> None:
    _cut_rows(folder, 1)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_lose_all, "has no metadata.parquet: `ddps distill` makes the set again"),
        (_garble, "delete it, and `ddps distill` makes the set again"),
        (_without_column, "delete it, and `ddps distill` makes the set again"),
        (_lose, "1 of 4 images are not there or empty, train/leaf/00001.png is the first"),
        (_empty, "1 of 4 images are not there or empty, train/fish/00000.png is the first"),
        (_add, "1 image files are not in metadata.parquet, train/leaf/00002.png is the first"),
        (_without_an_image, "1 classes have not 2 images, 'fish' with 1 is one"),
        (_without_a_class, "1 classes are in metadata.parquet, but 2 were made"),
        (_without_a_patch, "1 images are no mosaic, train/fish/00000.png is one"),
    ],
)
def test_a_set_that_is_not_whole_is_named(
    damage: Callable[[Path], None], said: str, distilled: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(Path(distilled.path("distilled", "ddps", "ipc=2~0badc0de")))
    code, lines = _verify(distilled, capsys)
    assert code == 1
    assert lines[0] == "verify: distill/ddps/ipc=2: whole; seed=0"
    assert lines[1].startswith("verify: distill/ddps/ipc=2~0badc0de: ")
    assert lines[1].endswith(said)
    assert lines[2:] == ["verify: 3 shards, 12 rows, 1 things wrong"]
