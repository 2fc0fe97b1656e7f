"""The index stage on a real Ray: what it lists, what it refuses, and what it leaves in the run directory."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ddps_ray import config, manifest, storage
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import index
from ddps_ray.report.localisation import read_boxes
from ddps_ray.storage import Run
from tests.sources import datasets

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


def photographs(root: Path, **classes: int) -> Path:
    """Files that are called images, so many a class."""
    for class_id, count in classes.items():
        for n in range(count):
            datasets.put(root / "train" / class_id / f"{n:03d}.png", "")
    return root


def listed(run_dir: Path) -> list[str]:
    return [str(name) for name in manifest.dataset(Run(str(run_dir))).to_table()["image_id"].to_pylist()]


def test_a_data_set_that_has_grown_is_listed_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run_dir = photographs(tmp_path / "data", a=2, b=2), tmp_path / "run"
    growing = recipe(run_dir, root, val=None)
    index.run(growing)
    before = Run(str(run_dir)).require("index", "index")
    index.run(growing, refresh=True)
    assert "index: nothing new: 4 images of 2 classes" in capsys.readouterr().out
    assert Run(str(run_dir)).require("index", "index") == before

    photographs(root, a=3)
    index.run(growing)
    assert "already finished: 4 images" in capsys.readouterr().out
    index.run(growing, refresh=True)
    assert "index: 5 images of 2 classes (train), 1 more than before → " in capsys.readouterr().out
    after = Run(str(run_dir)).require("index", "index")
    assert after["fingerprint"] != before["fingerprint"]
    assert after["splits"] == {"train": 5}
    assert listed(run_dir) == [
        "train/a/000.png",
        "train/a/001.png",
        "train/a/002.png",
        "train/b/000.png",
        "train/b/001.png",
    ]
    assert [path.name for path in (run_dir / "manifest").iterdir()] == after["files"] == ["train-00001.parquet"]


def test_a_run_of_before_uris_had_one_spelling_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run_dir = photographs(tmp_path / "my data", a=2), tmp_path / "run"
    growing = recipe(run_dir, root, val=None)
    growing = growing.model_copy(
        update={"data": growing.data.model_copy(update={"root": storage.absolute(root.as_uri())})}
    )
    index.run(growing)
    # As it was recorded when a URI stayed as it was written.
    record = Run(str(run_dir)).record()
    record["stages"]["index"]["settings"]["root"] = f"file://{root}/"
    storage.write_json(str(run_dir / "run.json"), record)
    file = run_dir / "manifest" / "train-00000.parquet"
    rows = pq.read_table(file)
    earlier = [f"file://{root}/{name}" for name in rows["image_id"].to_pylist()]
    pq.write_table(rows.set_column(rows.column_names.index("uri"), rows.schema.field("uri"), [earlier]), file)
    index.run(growing)
    assert "already finished: 2 images" in capsys.readouterr().out
    photographs(root, a=3)
    index.run(growing, refresh=True)
    assert "1 more than before" in capsys.readouterr().out
    assert len(listed(run_dir)) == 3


def test_a_refresh_that_is_cut_off_harms_nothing_and_is_repaired(tmp_path: Path) -> None:
    root, run_dir = photographs(tmp_path / "data", a=2), tmp_path / "run"
    growing = recipe(run_dir, root, val=None)
    index.run(growing)
    run, old = Run(str(run_dir)), (run_dir / "manifest" / "train-00000.parquet").read_bytes()
    # Cut off before its end: the new files are there, and the record is the old one.
    manifest.write(run, "train", pq.read_table(run_dir / "manifest" / "train-00000.parquet"), first=1)
    datasets.put(run_dir / "manifest" / "train-00002.parquet", "half a file")
    assert listed(run_dir) == ["train/a/000.png", "train/a/001.png"]
    photographs(root, a=3)
    index.run(growing, refresh=True)
    assert len(listed(run_dir)) == 3
    assert len(list((run_dir / "manifest").iterdir())) == 1
    # Cut off behind the record, before the old files were deleted.
    datasets.put(run_dir / "manifest" / "train-00000.parquet", old)
    assert len(listed(run_dir)) == 3
    index.run(growing, refresh=True)
    assert len(list((run_dir / "manifest").iterdir())) == 1


def test_a_data_set_that_has_lost_or_changed_an_image_is_refused(tmp_path: Path) -> None:
    root, run_dir = photographs(tmp_path / "data", b=2, c=1), tmp_path / "run"
    growing = recipe(run_dir, root, val=None)
    index.run(growing)
    before = contents(run_dir)
    photographs(root, a=1)
    with pytest.raises(UserError, match=r"data: the label of train/b/000\.png was 0, is now 1: use another run_dir"):
        index.run(growing, refresh=True)
    (root / "train/a/000.png").rename(root / "train/b/000.png")
    (root / "train/a").rmdir()
    (root / "train/b/001.png").unlink()
    with pytest.raises(UserError, match=r"data: train/b/001\.png is no longer in the data set: use another run_dir"):
        index.run(growing, refresh=True)
    assert contents(run_dir) == before


def test_a_subset_is_taken_of_the_training_split_alone(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.run(recipe(tmp_path / "run", scenes, per_class=3, seed=1))
    assert "index: 30 images of 10 classes (train), 60 (val)" in capsys.readouterr().out
    index.run(recipe(tmp_path / "other", scenes, per_class=3, seed=2))
    assert listed(tmp_path / "run") != listed(tmp_path / "other")
    with pytest.raises(UserError, match="index: per_class was 3, is now 4"):
        index.run(recipe(tmp_path / "run", scenes, per_class=4, seed=1))
    index.run(recipe(tmp_path / "all", scenes, per_class=13))
    assert "index: warning: 10 classes have fewer than 13 images" in capsys.readouterr().out


def test_the_layout_is_said_and_recorded_and_boxes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {split: {"n1": {f"{split}.png": b""}} for split in ("train", "val")}
    datasets.tiny_imagenet(tmp_path / "data", images)
    index.run(recipe(tmp_path / "run", tmp_path / "data"))
    assert "(layout tiny-imagenet)" in capsys.readouterr().out
    assert Run(str(tmp_path / "run")).record()["stages"]["index"]["settings"]["layout"] == "tiny-imagenet"
    assert read_boxes(storage.join(str(tmp_path / "run"), "boxes.csv")) == {
        "train/n1/train.png": (0, 1, 10, 20),
        "val/n1/val.png": (2, 3, 5, 6),
    }
    with pytest.raises(UserError, match='index: layout was "tiny-imagenet", is now "imagefolder"'):
        index.run(recipe(tmp_path / "run", tmp_path / "data", layout="imagefolder"))


def test_how_a_data_set_is_read_is_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for path in ("a/abbey", "a/apartment_building/outdoor", "b/barn"):
        datasets.put(root / "train" / path / "1.png", "")
    index.run(recipe(tmp_path / "top", root, val=None))
    said = capsys.readouterr().out
    assert f"index: warning: {root}/train/a and 1 more class folders hold only folders, such as 'abbey'" in said
    assert "set data.class_folders=leaf" in said
    assert "index: warning: 'a' and 1 more classes: no name that a prompt could use; data.classes can give one" in said
    leaf = recipe(tmp_path / "leaf", root, val=None, class_folders="leaf")
    index.run(leaf)
    assert "warning" not in capsys.readouterr().out
    assert listed(tmp_path / "leaf") == [
        "train/abbey/1.png",
        "train/apartment_building_outdoor/1.png",
        "train/barn/1.png",
    ]
    index.run(leaf)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match='index: class_folders was "leaf", is now null'):
        index.run(recipe(tmp_path / "leaf", root, val=None))


def test_a_run_of_before_these_settings_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run_dir = photographs(tmp_path / "data", ape=2), tmp_path / "run"
    growing = recipe(run_dir, root, val=None)
    index.run(growing)
    record = Run(str(run_dir)).record()
    for key in ("class_folders", "image_column", "label_column"):
        assert record["stages"]["index"]["settings"].pop(key) is None
    record["stages"]["index"]["summary"].pop("nameless")
    storage.write_json(str(run_dir / "run.json"), record)
    old = pq.read_table(run_dir / "manifest" / "train-00000.parquet").drop_columns("wnid")
    pq.write_table(old, run_dir / "manifest" / "train-00000.parquet")
    index.run(growing)
    assert "already finished: 2 images" in capsys.readouterr().out
    photographs(root, ape=3)
    index.run(growing, refresh=True)
    assert "1 more than before" in capsys.readouterr().out
    assert manifest.dataset(Run(str(run_dir))).to_table()["wnid"].to_pylist() == [None] * 3


def test_names_that_are_none_are_warned_of_and_a_table_gives_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for class_id in ("00000", "00013", "n01443537"):
        datasets.put(root / "train" / class_id / "1.png", "")
    index.run(recipe(tmp_path / "run", root, val=None))
    warning = "index: warning: '00000' and 1 more classes: no name that a prompt could use; data.classes can give one"
    assert warning in capsys.readouterr().out
    table = tmp_path / "names.csv"
    table.write_text("00000;tench;n01440764\n00013;traffic sign;\nn01443537;goldfish\n")
    named = recipe(tmp_path / "named", root, val=None, classes=str(table))
    index.run(named)
    assert "warning" not in capsys.readouterr().out
    run = Run(str(tmp_path / "named"))
    assert manifest.classes(run)["class_text"].to_pylist() == ["tench", "traffic sign", "goldfish"]
    assert manifest.wnids(run) == {"00000": "n01440764", "n01443537": "n01443537"}
    table.write_text("00000;tench;n01443538\n00013;traffic sign;\nn01443537;goldfish\n")
    with pytest.raises(UserError, match="index: classes was"):
        index.run(named)


def test_what_is_skipped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photographs(tmp_path / "data", ape=1)
    for name in ("ape/1.heic", "ape/2.heic", "ape/x.npy", "@eaDir/1.jpg/thumb.jpg"):
        datasets.put(root / "train" / name, "")
    index.run(recipe(tmp_path / "run", root, val=None))
    said = capsys.readouterr().out
    assert "index: other files are skipped: 2 .heic, 1 .npy" in said
    assert "index: passed over, as systems leave them: train/@eaDir" in said
    assert "index: 1 images of 1 classes (train); 3 other files skipped" in said
