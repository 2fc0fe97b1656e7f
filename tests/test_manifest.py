"""The manifest is read as it was written, however many files it has."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ddps_ray import manifest, schemas
from ddps_ray.errors import UserError
from ddps_ray.storage import Run


def test_a_split_goes_into_several_files_and_is_counted_whole(tmp_path: Path) -> None:
    run = Run((tmp_path / "run").as_uri())
    run.claim("index", {})
    for split, size in (("train", 25), ("val", 4)):
        columns = {
            "image_id": [f"{split}/{n:02d}" for n in range(size)],
            "uri": ["u"] * size,
            "class_id": [f"c{2 - n % 2}" for n in range(size)],
            "class_text": [("two", "one")[n % 2] for n in range(size)],
            "label": [1 - n % 2 for n in range(size)],
            "split": [split] * size,
        }
        manifest.write(run, split, schemas.table(columns, schemas.MANIFEST), rows_per_file=10)
    run.finish("index", {})
    files = sorted((tmp_path / "run" / "manifest").iterdir())
    assert [file.name for file in files] == [
        "train-00000.parquet",
        "train-00001.parquet",
        "train-00002.parquet",
        "val-00000.parquet",
    ]
    assert [pq.read_metadata(file).num_rows for file in files] == [10, 10, 5, 4]
    assert pq.read_table(files[2])["image_id"].to_pylist() == [f"train/{n}" for n in range(20, 25)]
    assert (manifest.count(run, "train"), manifest.count(run, "val"), manifest.count(run, "test")) == (25, 4, 0)
    assert manifest.classes(run).to_pylist() == [
        {"class_id": "c1", "class_text": "one", "label": 0},
        {"class_id": "c2", "class_text": "two", "label": 1},
    ]


def test_without_the_index_stage_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `ddps index` first"):
        manifest.classes(Run(str(tmp_path)))


def test_wordnet_ids_of_classes_are_kept_and_a_manifest_of_before_has_none(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.claim("index", {})
    classes = ["n01440764", "fish", "fish", "car"]
    columns = {
        "image_id": [f"train/{n}" for n in range(4)],
        "uri": ["u"] * 4,
        "class_id": classes,
        "class_text": classes,
        "label": [2, 1, 1, 0],
        "split": ["train"] * 4,
    }
    rows = schemas.table(columns | {"wnid": ["n01440764", "n01443537", "n01443537", None]}, schemas.MANIFEST)
    run.finish("index", {"files": manifest.write(run, "train", rows)})
    assert manifest.wnids(run) == {"n01440764": "n01440764", "fish": "n01443537"}
    pq.write_table(rows.drop_columns("wnid"), tmp_path / "run" / "manifest" / "train-00000.parquet")
    assert manifest.wnids(run) == {}
    assert manifest.count(run, "train") == 4
    assert manifest.dataset(run).to_table()["wnid"].to_pylist() == [None] * 4
    assert manifest.classes(run)["class_id"].to_pylist() == ["car", "fish", "n01440764"]
