"""Packing on a real Ray: the same data set in a few files, nothing lost, a kill repaired, a second run idle."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray import config, manifest, schemas
from ddps_ray.config import Recipe
from ddps_ray.errors import BadImage, UserError
from ddps_ray.pipeline import index, pack
from ddps_ray.sources import reading
from ddps_ray.storage import Run
from tests.sources import datasets

pytestmark = pytest.mark.usefixtures("ray_session")


def recipe(run_dir: Path, root: Path, **data: Any) -> Recipe:
    values = {"run_dir": str(run_dir), "data": {"root": str(root)} | data, "model": {"path": "quickstart"}}
    return config.parse(values, "test")


@pytest.fixture(scope="module")
def source(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three classes."""
    images = {
        split: {
            c: {path.name: path.read_bytes() for path in (scenes / split / c).iterdir()}
            for c in ("ball", "dice", "gem")
        }
        for split in ("train", "val")
    }
    root = tmp_path_factory.mktemp("shards")
    datasets.webdataset(root, images)
    return root


def rows(run_dir: Path) -> dict[str, dict[str, Any]]:
    found = manifest.dataset(Run(str(run_dir))).to_table().to_pylist()
    return {row["image_id"]: row for row in found}


def test_a_packed_data_set_is_the_same_data_set(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.put(tmp_path / "names.csv", "ball,a ball,n02778669\ndice,two dice\ngem,a gem\n")
    first = recipe(tmp_path / "run", source, classes=str(tmp_path / "names.csv"))
    index.run(first)
    pack.run(first, str(tmp_path / "out"), seconds=0.1)
    said = capsys.readouterr().out
    assert re.search(r"^pack: \d+ of 54 images \(\d+ safe in \d files\)$", said, re.MULTILINE)
    assert "pack: 54 images packed, 0 in quarantine" in said
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert {file.name.partition("-")[0] for file in files} == {"train", "val"}
    assert pq.read_schema(files[0]).equals(schemas.PACKED)
    index.run(recipe(tmp_path / "again", tmp_path / "out"))
    assert "(layout packed)" in capsys.readouterr().out
    assert manifest.wnids(Run(str(tmp_path / "again"))) == {"ball": "n02778669"}
    before, after = rows(tmp_path / "run"), rows(tmp_path / "again")
    assert list(before) == list(after), "in the order of the manifest"
    for image_id, row in before.items():
        packed = after[image_id]
        assert {**packed, "uri": ""} == {**row, "uri": ""}
        assert reading.read_encoded(packed["uri"]) == reading.read_encoded(row["uri"])

    state = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    pack.run(first, str(tmp_path / "out"))
    assert "pack: already finished: 54 images packed, 0 in quarantine" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == state


def test_what_cannot_be_read_is_in_quarantine_and_keeps_its_row(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for n, path in enumerate(sorted((scenes / "train" / "gem").iterdir())[:5]):
        datasets.put(root / "train" / "gem" / f"{n}.png", path.read_bytes())
    datasets.put(tmp_path / "secrets", "no picture, but a file of somebody's")
    (root / "train" / "gem" / "text.png").symlink_to(tmp_path / "secrets")
    first = recipe(tmp_path / "run", root, val=None)
    index.run(first)
    mended = (root / "train/gem/4.png").read_bytes()
    for name in ("3.png", "4.png"):
        (root / "train/gem" / name).unlink()
    with pytest.raises(UserError, match=r"3 of 6 images failed, more than 0\.05"):
        pack.run(first, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "packed.json").exists()
    (root / "train/gem/4.png").write_bytes(mended)
    lenient = first.model_copy(update={"score": first.score.model_copy(update={"max_error_fraction": 0.4})})
    pack.run(lenient, str(tmp_path / "out"))
    assert "pack: 4 images packed, 2 in quarantine" in capsys.readouterr().out
    quarantine = pq.read_table(tmp_path / "run/quarantine/pack.parquet")
    assert quarantine.schema.equals(schemas.QUARANTINE)
    assert quarantine.to_pylist() == [
        {
            "image_id": "train/gem/3.png",
            "uri": str(root / "train/gem/3.png"),
            "stage": "pack",
            "reason": "cannot be read: FileNotFoundError",
        },
        {
            "image_id": "train/gem/text.png",
            "uri": str(root / "train/gem/text.png"),
            "stage": "pack",
            "reason": "not an image",
        },
    ]
    for file in (tmp_path / "out").glob("*.parquet"):
        assert b"somebody" not in file.read_bytes()
    index.run(recipe(tmp_path / "again", tmp_path / "out", val=None))
    again = rows(tmp_path / "again")
    assert set(again) == set(rows(tmp_path / "run"))
    read = reading.attempt([row["uri"] for row in again.values()], lambda image: image.size)
    bad = {image_id: str(each) for image_id, each in zip(again, read, strict=True) if isinstance(each, BadImage)}
    assert bad == {f"train/gem/{name}.png": "no bytes are stored for it" for name in ("3", "text")}


def test_a_killed_run_goes_on_and_an_unfinished_set_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = recipe(tmp_path / "run", source)
    index.run(first)
    out = tmp_path / "out"
    pack.run(first, str(out))
    whole = {image_id: image for file in out.glob("*.parquet") for image_id, image in _images(file)}
    # What a kill leaves: a file that is cut, none of the second split, no record, the stage begun.
    train = next(out.glob("train-*"))
    train.write_bytes(train.read_bytes()[:1000])
    (out / "packed.json").unlink()
    record = Run(str(tmp_path / "run")).record()
    del record["stages"][f"pack/{out}"]["finished"]
    datasets.put(tmp_path / "run" / "run.json", json.dumps(record))
    with pytest.raises(UserError, match="was not packed to the end"):
        index.run(recipe(tmp_path / "other", out, layout="packed"))
    capsys.readouterr()
    pack.run(first, str(out))
    said = capsys.readouterr().out
    assert "pack: 18 of 54 were done before; going on with the others" in said
    assert "pack: 54 images packed, 0 in quarantine" in said
    again = [row for file in out.glob("*.parquet") for row in _images(file)]
    assert dict(again) == whole
    assert len(again) == 54


def test_a_folder_with_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    first = recipe(tmp_path / "run", source)
    with pytest.raises(UserError, match="run `ddps index` first"):
        pack.run(first, str(tmp_path / "out"))
    index.run(first)
    datasets.put(tmp_path / "out" / "letter.txt", "mine")
    with pytest.raises(UserError, match=r"--out: .*out is not empty"):
        pack.run(first, str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["letter.txt"]


def _images(file: Path) -> list[tuple[str, bytes]]:
    table: pa.Table = pq.read_table(file, columns=["image_id", "image"])
    return list(zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True))
