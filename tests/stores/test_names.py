"""A whole run where every folder has a name with the characters that URIs treat apart: on disk and in a store."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from ddps_ray import config, schemas, storage
from ddps_ray.errors import UserError
from ddps_ray.inspection import status, verify
from ddps_ray.pipeline import every, pack
from ddps_ray.storage import Run
from tests.stores.conftest import Store

pytestmark = pytest.mark.usefixtures("ray_session")

ODD = "lr=0.1 a b#c%d+e%20f;ü&g"
"""Hive's `key=value` too, which Parquet readers take for a column."""

CLASSES = ("big cat", "C# & 100%")


def _put(root: str) -> None:
    for split in ("train", "val"):
        for number, class_id in enumerate(CLASSES):
            for index in range(4):
                sink = io.BytesIO()
                Image.new("RGB", (32, 32), (200 * number, 40 * index, 90)).save(sink, "PNG")
                storage.write_bytes(storage.join(root, split, class_id, f"#{index} + 50%.png"), sink.getvalue())


def _values(root: str, run_dir: str, model: Path) -> dict[str, Any]:
    student = {"arch": "convnet2", "width": 8}
    return {
        "run_dir": run_dir,
        "data": {"root": root},
        "model": {"path": str(model)},
        "score": {"size": 32, "patch": 16, "pairs": 1, "judge": "skip"},
        "distill": {"size": 16, "clusters": 2, "top_clusters": 1, "sets": {"ddps": {"ipc": [1]}}},
        "teacher": {"weights": "trained", "model": student, "epochs": 1, "batch": 4},
        "evaluate": {"size": 16, "students": [student], "seeds": [0], "epochs": 1},
    }


@pytest.mark.parametrize("where", ["path", pytest.param("uri", marks=pytest.mark.slow), "store"])
def test_a_run_keeps_to_its_own_folders(where: str, tmp_path: Path, store: Store, tiny_sd: Path) -> None:
    tops = {"path": str(tmp_path), "uri": tmp_path.as_uri(), "store": store.uri("names")}
    data, run_dir = (storage.join(tops[where], f"{name} {ODD}") for name in ("data?", "run"))
    _put(data)
    recipe = config.parse(_values(data, run_dir, tiny_sd), "test")
    every.run(recipe)
    run = Run(recipe.run_dir)
    rows = list(storage.list_files(run.path("evaluation"), recursive=False))
    filesystem, folder = storage.open_uri(run.uri)
    row = schemas.check(pq.ParquetFile(rows[0].path, filesystem=filesystem).read(), schemas.EVALUATION)
    assert (len(rows), row["images"].to_pylist()) == (1, [2])
    made = {file.path.removeprefix(folder) for file in storage.list_files(run.path("distilled"))}
    assert {f"/distilled/ddps/ipc=1/train/{class_id}/00000.png" for class_id in CLASSES} < made
    assert storage.exists(run.path("report", "index.html"))
    assert verify.run(recipe.run_dir) == verify.SOUND
    assert status.run(recipe.run_dir) == 0
    packed = storage.join(tops[where], f"packed {ODD}")
    pack.run(recipe, packed)
    top = storage.open_uri(tops[where])[1]
    there = {file.path.removeprefix(f"{top}/").split("/")[0] for file in storage.list_files(tops[where])}
    assert there == {f"{name} {ODD}" for name in ("data?", "run", "packed")}
    every.run(recipe)  # everything is found again
    assert [file.path for file in storage.list_files(run.path("evaluation"), recursive=False)] == [
        file.path for file in rows
    ]


def test_no_run_directory_has_a_question_mark_for_ray_would_not_see_its_files(tmp_path: Path) -> None:
    (folder := tmp_path / "a?b").mkdir()
    pq.write_table(pa.table({"x": [1]}), folder / "x.parquet")
    with pytest.raises(ValueError, match="no files found"):
        ray.data.read_parquet(str(folder / "x.parquet"))
    for run_dir in (str(folder), storage.join(tmp_path.as_uri(), "a?b")):
        with pytest.raises(UserError, match=r"run_dir: Ray looks for the ending"):
            config.parse(_values("data", run_dir, tmp_path), "test")
