"""Writing a class again, as Ray does when a worker was lost, leaves nothing of the first time."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ddps_ray.config import Distill, DistilledSet
from ddps_ray.selection.budget import plan
from ddps_ray.selection.writer import merge, write_class
from tests.selection.rows import candidates, scored


def test_a_class_written_again_leaves_only_its_own_files(scenes: Path, tmp_path: Path) -> None:
    uris = [scenes / "train" / "leaf" / f"{number:05d}.png" for number in range(6)]
    found = candidates([scored(str(i), i % 2, i / 10, i, uri=str(uri)) for i, uri in enumerate(uris)])
    settings = Distill(clusters=2, top_clusters=2, size=32)
    folder = tmp_path / "ipc=3"
    lost = [folder / "train" / "leaf" / name for name in ("00004.png", ".00001.png.0badc0de")]
    lost[0].parent.mkdir(parents=True)
    for path in lost:
        path.write_bytes(b"of a worker that was lost")
    for _ in range(2):
        write_class(found, settings, DistilledSet(), {str(folder): plan(3, 2, mosaic=False)})
    assert sorted(path.name for path in lost[0].parent.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert merge(str(folder), ["leaf"]) == 3


@pytest.mark.parametrize("class_id", ["x" * 255, "é" * 127 + "x", ".hidden", "a class, with marks: #1?"])
def test_a_class_may_be_called_as_a_folder_may_be(scenes: Path, tmp_path: Path, class_id: str) -> None:
    uri = str(scenes / "train" / "leaf" / "00000.png")
    rows = [scored(str(i), i % 2, i / 10, i, uri=uri, class_id=class_id) for i in range(4)]
    settings = Distill(clusters=2, top_clusters=2, size=32)
    write_class(candidates(rows), settings, DistilledSet(), {str(tmp_path / "ipc=2"): plan(2, 2, mosaic=False)})
    assert merge(str(tmp_path / "ipc=2"), [class_id]) == 2
    files = pq.read_table(tmp_path / "ipc=2" / "metadata.parquet")["file"].to_pylist()
    assert files == [f"train/{class_id}/00000.png", f"train/{class_id}/00001.png"]
    assert all((tmp_path / "ipc=2" / file).is_file() for file in files)
