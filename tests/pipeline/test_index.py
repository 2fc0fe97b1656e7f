"""The index stage on a real Ray: what it lists, what it refuses, and what it leaves in the run directory."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray import config, manifest
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import index
from ddps_ray.storage import Run

pytestmark = pytest.mark.usefixtures("ray_session")


def recipe(run_dir: Path, root: Path, **data: Any) -> Recipe:
    values = {"run_dir": str(run_dir), "data": {"root": str(root)} | data, "model": {"path": "quickstart"}}
    return config.parse(values, "test")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_is_listed_once(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index.run(recipe(tmp_path / "run", scenes))
    run = Run(str(tmp_path / "run"))
    assert (manifest.count(run, "train"), manifest.count(run, "val")) == (120, 60)
    classes = manifest.classes(run).to_pydict()
    assert classes["class_id"] == sorted(path.name for path in (scenes / "train").iterdir())
    assert classes["label"] == list(range(10))
    first = manifest.dataset(run).head(1).to_pylist()[0]
    assert Path(first["uri"]).read_bytes().startswith(b"\x89PNG")
    assert (
        f"index: 120 images of 10 classes (train), 60 (val) → {tmp_path / 'run' / 'manifest'}"
        in capsys.readouterr().out
    )

    before = contents(tmp_path / "run")
    index.run(recipe(tmp_path / "run", scenes))
    assert "index: already finished: 120 images of 10 classes (train), 60 (val)" in capsys.readouterr().out
    assert contents(tmp_path / "run") == before
    with pytest.raises(UserError, match='index: val was "val", is now null'):
        index.run(recipe(tmp_path / "run", scenes, val=None))
    assert contents(tmp_path / "run") == before


def test_wrong_data_leaves_the_run_directory_free_for_right_data(scenes: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "train" / "empty_class").mkdir(parents=True)
    for root, said in [(tmp_path / "absent", "does not exist"), (broken, "empty_class has no images")]:
        with pytest.raises(UserError, match=said):
            index.run(recipe(tmp_path / "run", root, val=None))
    index.run(recipe(tmp_path / "run", scenes, val=None))
    assert Run(str(tmp_path / "run")).require("index", "index")["splits"] == {"train": 120}


def test_what_a_cut_off_attempt_left_is_replaced(scenes: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    index.run(recipe(whole, scenes))
    record = Run(str(whole)).record()["stages"]["index"]
    Run(str(cut)).claim("index", record["settings"])
    (cut / "manifest").mkdir()
    (cut / "manifest" / "train-00007.parquet").write_bytes(b"of an earlier listing")
    index.run(recipe(cut, scenes))
    assert contents(cut / "manifest") == contents(whole / "manifest")
    assert Run(str(cut)).require("index", "index") == record["summary"]


def test_names_are_part_of_the_settings_and_doubles_are_said(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "names.csv"
    names = {path.name: path.name for path in (scenes / "train").iterdir()} | {"ball": "toy", "dice": "toy"}

    def write(names: dict[str, str]) -> None:
        table.write_text("\n".join(["id,name", *(f"{class_id},{name}" for class_id, name in names.items())]))

    write(names)
    index.run(recipe(tmp_path / "run", scenes, classes=str(table)))
    assert "warning: several classes are called 'toy'" in capsys.readouterr().out
    texts = manifest.classes(Run(str(tmp_path / "run"))).to_pydict()
    assert dict(zip(texts["class_id"], texts["class_text"], strict=True)) == names
    write(names | {"dice": "die"})
    with pytest.raises(UserError, match="index: classes was"):
        index.run(recipe(tmp_path / "run", scenes, classes=str(table)))


def test_other_files_are_counted_and_said(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for name in ("train/a/0.png", "train/a/README.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("a text, even where it is called .png")
    index.run(recipe(tmp_path / "run", root, val=None))
    assert "index: 1 images of 1 classes (train); 1 other files skipped" in capsys.readouterr().out
