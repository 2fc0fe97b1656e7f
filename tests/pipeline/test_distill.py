"""Distilled sets on real Ray and real files, from score rows whose clusters are known by construction."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddps_ray import config, imaging, schemas, storage
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import distill
from ddps_ray.remedies import user_error
from ddps_ray.selection import sets as selected
from ddps_ray.storage import Run
from tests.selection.rows import failed, score_table, scored

CLASSES = ("fish", "leaf", "sign")
WIDE, HIGH = 48, 40


def _score_rows(scenes: Path, each: int = 12) -> list[dict[str, Any]]:
    """So many images of each class in three clusters, the second the most typical; one more could not be scored.

    There are twelve files of a class; with more images, several are of one.
    """
    rows = []
    for label, class_id in enumerate(CLASSES):
        rng = random.Random(class_id)
        rows.append(failed(f"train/{class_id}/bad.png", class_id=class_id, label=label))
        for number in range(each):
            image_id = f"train/{class_id}/{number:05d}.png"
            visual = number % 3
            typicality = [0.1, 0.5, 0.3][visual] + rng.uniform(-0.3, 0.3)
            place = {"left": rng.randint(0, WIDE - 24), "top": rng.randint(0, HIGH - 24)}
            size = {"scaled_width": WIDE, "scaled_height": HIGH, "patch_width": 24, "patch_height": 24}
            uri = str(scenes / "train" / class_id / f"{number % 12:05d}.png")
            where = {"uri": uri, "class_id": class_id, "label": label}
            rows.append(scored(image_id, visual, rng.uniform(-0.3, 0.3), typicality, **place, **size, **where))
    return rows


def _run_dir(folder: Path, rows: list[dict[str, Any]], shard: int = 7) -> Path:
    """A run directory as `index` and `score` leave it, the rows in shards of a few."""
    run = Run(str(folder))
    for stage, summary in {"index": {}, "score": {"digest": "of 36 images"}}.items():
        run.claim(stage, {})
        run.finish(stage, summary)
    listed = [{"class_text": row["class_id"], "split": "train", "wnid": None} | row for row in rows]
    listed.append(listed[0] | {"image_id": "val/x.png", "class_id": "only_val", "split": "val"})
    manifest = {name: [row[name] for row in listed] for name in schemas.MANIFEST.names}
    storage.write_table(str(folder / "manifest" / "0.parquet"), schemas.table(manifest, schemas.MANIFEST))
    for start in range(0, len(rows), shard):
        part = score_table(rows[start : start + shard])
        storage.write_table(str(folder / "scores" / f"{start:03d}.parquet"), part)
    return folder


def _recipe(folder: Path, sets: dict[str, Any], patch: int | str = 24, **settings: Any) -> Recipe:
    base = {"clusters": 3, "top_clusters": 2, "mosaic_up_to": 2, "size": 32}
    values = {"run_dir": str(folder), "data": {"root": "unused"}, "model": {"path": "unused"}}
    values["score"] = {"patch": patch}
    return config.parse(values | {"distill": base | settings | {"sets": sets}}, "test")


def _distil(folder: Path, sets: dict[str, Any], **settings: Any) -> None:
    distill.run(_recipe(folder, sets, **settings))


def _metadata(folder: Path, name: str, ipc: int) -> pa.Table:
    return schemas.check(
        pq.read_table(folder / "distilled" / name / f"ipc={ipc}" / "metadata.parquet"), schemas.DISTILLED
    )


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted((folder / "distilled").rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def _cropped_again(scenes: Path, row: dict[str, Any], side: int) -> np.ndarray:
    source = Image.open(scenes / row["image_id"]).convert("RGB")
    scaled = source.resize((row["scaled_width"], row["scaled_height"]), Image.Resampling.BICUBIC)
    box = (row["left"], row["top"], row["width"], row["height"])
    return np.asarray(imaging.crop(scaled, box, side))


@pytest.mark.usefixtures("ray_session")
def test_any_ipc_and_any_classes_come_from_the_same_scores(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _score_rows(scenes)
    folder = _run_dir(tmp_path / "run", rows)
    sets = {
        "ddps": {"ipc": [1, 2, 5]},
        "few": {"ipc": [4], "classes": ["sign", "fish"]},
        "chance": {"selector": "random", "ipc": [5], "seed": 3},
    }
    _distil(folder, sets)
    expected = {"ddps": [(1, 3), (2, 6), (5, 15)], "few": [(4, 8)], "chance": [(5, 15)]}
    for name, ipc, images in [(name, *each) for name, sizes in expected.items() for each in sizes]:
        metadata = _metadata(folder, name, ipc)
        at = folder / "distilled" / name / f"ipc={ipc}"
        found = sorted(str(path.relative_to(at)) for path in at.rglob("*") if path.is_file())
        assert found == ["metadata.parquet", *sorted(set(metadata["file"].to_pylist()))]
        assert len(found) - 1 == images
        assert len(set(metadata["image_id"].to_pylist())) == metadata.num_rows == images * (4 if ipc <= 2 else 1)
        for row in metadata.to_pylist():
            assert row["file"].startswith(f"train/{row['class_id']}/")
            assert CLASSES[row["label"]] == row["class_id"] == row["image_id"].split("/")[1]
            distilled = np.asarray(Image.open(at / row["file"]))
            side = 16 if ipc <= 2 else 32
            left, top = row["slot"] % 2 * side, row["slot"] // 2 * side
            assert distilled.shape == (32, 32, 3)
            np.testing.assert_array_equal(
                distilled[top : top + side, left : left + side], _cropped_again(scenes, row, side)
            )
    assert set(_metadata(folder, "few", 4)["class_id"].to_pylist()) == {"sign", "fish"}

    # IPC 5 takes 5 // 2 = 2 of each top cluster, and one by typicality; the medians rank axis 1, then 2, then 0.
    scores = {row["image_id"]: row for row in rows}
    for class_id in CLASSES:
        mine = [row for row in _metadata(folder, "ddps", 5).to_pylist() if row["class_id"] == class_id]
        visuals = [int(Path(row["image_id"]).stem) % 3 for row in mine[:4]]
        assert visuals == [1, 1, 2, 2]
        assert [(row["cluster"], row["rank"]) for row in mine[:4]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        used = {row["image_id"] for row in mine[:4]}
        unused = [
            row for row in rows if row["class_id"] == class_id and not row["error"] and row["image_id"] not in used
        ]
        assert mine[4]["image_id"] == max(unused, key=lambda row: row["typicality"])["image_id"]
        for row in mine:
            score = scores[row["image_id"]]
            assert (row["left"], row["top"], row["width"]) == (score["left"], score["top"], 24)
            assert row["typicality"] == pytest.approx(score["typicality"])
    assert set(_metadata(folder, "chance", 5)["cluster"].to_pylist()) == {None}

    before = _files(folder)
    capsys.readouterr()
    _distil(folder, sets | {"ddps": {"ipc": [1, 2, 5, 6]}})
    said = capsys.readouterr().out
    after = _files(folder)
    assert {name: after[name] for name in before} == before
    assert len(set(_metadata(folder, "ddps", 6)["file"].to_pylist())) == 18
    assert said.count("already finished") == 5
    assert "distill/ddps/ipc=2: already finished, 6 images of 3 classes" in said


@pytest.mark.usefixtures("ray_session")
def test_bytes_depend_neither_on_the_order_of_the_scores_nor_on_an_earlier_attempt(
    scenes: Path, tmp_path: Path
) -> None:
    rows = _score_rows(scenes)
    sets = {"ddps": {"ipc": [2, 3]}, "chance": {"selector": "random", "ipc": [3]}}
    one = _run_dir(tmp_path / "one", rows)
    other = _run_dir(tmp_path / "other", random.Random(1).sample(rows, len(rows)), shard=20)
    stale = other / "distilled" / "ddps" / "ipc=2"
    for leftover in ("train/leaf/00007.png", "train/moon/00000.png", ".parts/leaf.parquet"):
        storage.write_bytes(str(stale / leftover), b"an earlier attempt")
    _distil(one, sets)
    _distil(other, sets)
    first, second = ({name: data for name, (data, _) in _files(folder).items()} for folder in (one, other))
    assert len(first) == 3 * (2 + 3 + 3) + 3
    assert first == second


@pytest.mark.usefixtures("ray_session")
def test_a_set_that_could_not_hold_what_its_name_says_is_refused_and_nothing_is_written(
    scenes: Path, tmp_path: Path
) -> None:
    rows = _score_rows(scenes)
    rows = [row for row in rows if row["class_id"] != "sign"] + [row for row in rows if row["class_id"] == "sign"][:4]
    folder = _run_dir(tmp_path / "run", rows)  # of the four one is in quarantine
    with pytest.raises(UserError) as caught:
        _distil(folder, {"ddps": {"ipc": [1, 3]}}, mosaic_up_to=10)
    assert str(caught.value) == (
        "distill.sets.ddps.ipc: class 'sign': 1 mosaics of four patches need 4 images of each class, and it has 3: "
        "possible is with single patches (composition: single), ipc up to 3"
    )
    assert not (folder / "distilled").exists()
    _distil(folder, {"ddps": {"ipc": [3]}}, mosaic_up_to=0)
    assert Run(str(folder)).summary("distill/ddps/ipc=3") == {"images": 9, "classes": 3, "scores": "of 36 images"}


RECIPE = """\
run_dir: {folder}
data: {{root: unused}}
model: {{path: unused}}
distill:
  clusters: 3
  top_clusters: 2
  mosaic_up_to: 2
  size: 32
  sets:
    ddps: {{ipc: [2, 5]}}
    chance: {{selector: random, ipc: [2]}}
"""


@pytest.fixture
def finished(scenes: Path, tmp_path: Path) -> Path:
    """A run directory with three finished sets; `run.yaml` beside it is its recipe."""
    folder = _run_dir(tmp_path / "run", _score_rows(scenes))
    (tmp_path / "run.yaml").write_text(RECIPE.format(folder=folder))
    distill.run(config.load(tmp_path / "run.yaml"))
    return folder


def _folders(folder: Path) -> set[str]:
    return {str(path.relative_to(folder / "distilled")) for path in (folder / "distilled").glob("*/*")}


ALL = {"ddps/ipc=2", "ddps/ipc=5", "chance/ipc=2"}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("change", "beside", "told"),
    [
        ("distill.format=jpg", ALL, "format=jpg"),
        ("distill.size=16", ALL, "size=16"),
        ("distill.sets.ddps.seed=1", {"ddps/ipc=2", "ddps/ipc=5"}, "seed=1"),
        ("distill.sets.chance.seed=1", {"chance/ipc=2"}, "seed=1"),
        ("distill.sets.ddps.classes=[sign, fish]", {"ddps/ipc=2", "ddps/ipc=5"}, "classes=fish+sign"),
        ("distill.clusters=2", {"ddps/ipc=2", "ddps/ipc=5"}, "clusters=2"),
        ("distill.top_clusters=1", {"ddps/ipc=2", "ddps/ipc=5"}, "top_clusters=1"),
        ("distill.sets.ddps.selector=random", {"ddps/ipc=2", "ddps/ipc=5"}, "selector=random"),
        ("distill.sets.ddps.composition=single", {"ddps/ipc=2"}, "composition=single"),
        ("distill.mosaic_up_to=1", {"ddps/ipc=2", "chance/ipc=2"}, "composition=single"),
    ],
)
def test_a_later_setting_lies_beside_what_was_made(
    change: str, beside: set[str], told: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = finished.parent / "run.yaml"
    before = _files(finished)
    later = config.load(file, [change])
    capsys.readouterr()
    distill.run(later)
    said = capsys.readouterr().out
    after = _files(finished)
    assert {name: after[name] for name in before} == before
    added = _folders(finished) - ALL
    assert {name.split("~")[0] for name in added} == beside
    assert len(added) == len(beside)
    for name in added:
        assert f"distill/{name}: {told}; it lies beside others of this name" in said
        assert (finished / "distilled" / name / "metadata.parquet").is_file()
    assert said.count("already finished") == len(ALL) - len(beside)

    distill.run(later)
    distill.run(config.load(file))
    assert capsys.readouterr().out.count("already finished") == 2 * len(ALL)
    assert _files(finished) == after


@pytest.mark.usefixtures("ray_session")
def test_what_a_setting_beside_holds_is_what_a_run_of_its_own_holds(
    finished: Path, scenes: Path, tmp_path: Path
) -> None:
    changes = ["distill.sets.ddps.seed=1", "distill.format=jpg", "distill.sets.ddps.classes=[leaf]"]
    later = config.load(tmp_path / "run.yaml", changes)
    distill.run(later)
    other = _run_dir(tmp_path / "other", _score_rows(scenes))
    distill.run(config.load(tmp_path / "run.yaml", [*changes, f"run_dir={other}"]))
    for name, ipc in [("ddps", 2), ("ddps", 5), ("chance", 2)]:
        place = Path(selected.location(Run(str(finished)), later, name, ipc).uri)
        alone = other / "distilled" / name / f"ipc={ipc}"
        files = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert files == {str(path.relative_to(alone)): path.read_bytes() for path in alone.rglob("*") if path.is_file()}
        assert len(files) == ipc * (1 if name == "ddps" else 3) + 1


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("change", "made"),
    [
        ("distill.sets.more.ipc=[3]", "distilled/more/ipc=3"),
        ("distill.sets.ddps.ipc=[2, 5, 6]", "distilled/ddps/ipc=6"),
        ("distill.mosaic_up_to=3", None),
        ("distill.sets.chance.composition=mosaic", None),
        ("score.pairs=3", None),
    ],
)
def test_what_is_not_of_a_set_makes_it_not_again(change: str, made: str | None, finished: Path) -> None:
    before = _files(finished)
    distill.run(config.load(finished.parent / "run.yaml", [change]))
    added = _folders(finished) - ALL
    assert [f"distilled/{name}" for name in added] == ([made] if made else [])
    assert {name: data for name, data in _files(finished).items() if name in before} == before


@pytest.mark.usefixtures("ray_session")
def test_a_record_of_an_earlier_version_is_understood(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = storage.read_bytes(str(finished / "run.json"))
    earlier = json.loads(record)
    common = {"clusters": 3, "top_clusters": 2, "mosaic_up_to": 2, "size": 32, "format": "png", "seed": 0}
    for name in ("ddps", "chance"):
        for ipc in (2, 5) if name == "ddps" else (2,):
            own = {"selector": {"ddps": "ddps", "chance": "random"}[name], "classes": None, "ipc": ipc}
            earlier["stages"][f"distill/{name}/ipc={ipc}"]["settings"] = common | own
    storage.write_json(str(finished / "run.json"), earlier)
    before = _files(finished)
    capsys.readouterr()
    distill.run(config.load(finished.parent / "run.yaml"))
    assert capsys.readouterr().out.count("already finished") == 3
    distill.run(config.load(finished.parent / "run.yaml", ["distill.mosaic_up_to=1", "distill.clusters=4"]))
    assert {name.split("~")[0] for name in _folders(finished) - ALL} == ALL
    assert {name: data for name, data in _files(finished).items() if name in before} == before


@pytest.mark.usefixtures("ray_session")
def test_mosaics_and_single_patches_at_any_ipc_from_the_same_scores(scenes: Path, tmp_path: Path) -> None:
    rows = _score_rows(scenes, each=84)
    sets = {
        f"{selector}-{how}": {"selector": selector, "ipc": [2, 20], "composition": how}
        for selector in ("ddps", "random")
        for how in ("mosaic", "single", "auto")
    }
    one, other = _run_dir(tmp_path / "one", rows), _run_dir(tmp_path / "other", rows[::-1])
    _distil(one, sets)
    _distil(other, sets)
    made, again = ({name: data for name, (data, _) in _files(folder).items()} for folder in (one, other))
    assert made == again
    for selector in ("ddps", "random"):
        for how, ipc, patches in [("mosaic", 2, 4), ("mosaic", 20, 4), ("single", 2, 1), ("single", 20, 1)]:
            found = _metadata(one, f"{selector}-{how}", ipc)
            assert len(set(found["file"].to_pylist())) == 3 * ipc
            assert len(set(found["image_id"].to_pylist())) == found.num_rows == 3 * ipc * patches
            assert found["slot"].to_pylist() == list(range(patches)) * (3 * ipc)
            row = found.to_pylist()[-1]
            image = np.asarray(Image.open(one / "distilled" / f"{selector}-{how}" / f"ipc={ipc}" / row["file"]))
            side = 32 // (2 if patches == 4 else 1)
            source = {each["image_id"]: Path(each["uri"]) for each in rows}[row["image_id"]]
            again_cut = _cropped_again(scenes, row | {"image_id": source.relative_to(scenes)}, side)
            np.testing.assert_array_equal(image[-side:, -side:], again_cut)
        for ipc, how in [(2, "mosaic"), (20, "single")]:  # mosaic_up_to is 2
            own, auto = (f"distilled/{selector}-{which}/ipc={ipc}/" for which in (how, "auto"))
            same = {name.removeprefix(auto): data for name, data in made.items() if name.startswith(auto)}
            assert same == {name.removeprefix(own): data for name, data in made.items() if name.startswith(own)}


@pytest.mark.usefixtures("ray_session")
def test_too_few_images_for_mosaics_that_are_asked_for_are_said_and_single_patches_are_made(
    scenes: Path, tmp_path: Path
) -> None:
    folder = _run_dir(tmp_path / "run", _score_rows(scenes))
    with pytest.raises(UserError) as caught:
        _distil(folder, {"mine": {"ipc": [4], "composition": "mosaic"}})
    assert str(caught.value) == (
        "distill.sets.mine.ipc: class 'fish': 4 mosaics of four patches need 16 images of each class, and it has 12: "
        "possible is ipc up to 3, or, with single patches (composition: single), ipc up to 12"
    )
    _distil(folder, {"mine": {"ipc": [4], "composition": "single"}}, mosaic_up_to=10)
    assert _metadata(folder, "mine", 4).num_rows == 12


@pytest.mark.usefixtures("ray_session")
def test_whole_images_become_mosaics_only_where_a_set_asks_for_it(scenes: Path, tmp_path: Path) -> None:
    folder = _run_dir(tmp_path / "run", _score_rows(scenes))
    _distil(folder, {"usual": {"ipc": [2]}, "asked": {"ipc": [2], "composition": "mosaic"}}, patch="full")
    assert _metadata(folder, "usual", 2).num_rows == 6
    assert _metadata(folder, "asked", 2).num_rows == 24


@pytest.mark.usefixtures("ray_session")
def test_a_set_older_than_the_scores_is_refused_and_one_of_another_name_is_made(scenes: Path, tmp_path: Path) -> None:
    rows = _score_rows(scenes)
    folder = _run_dir(tmp_path / "run", [row for row in rows if row["image_id"] != "train/leaf/00011.png"])
    _distil(folder, {"before": {"selector": "random", "ipc": [11]}})
    before = _files(folder)
    storage.write_table(
        str(folder / "scores" / "more.parquet"),
        score_table([row for row in rows if row["image_id"] == "train/leaf/00011.png"]),
    )
    Run(str(folder)).finish("score", {"digest": "of 37 images"})
    with pytest.raises(UserError, match=r"before/ipc=11 was made before more images had scores; name a new set"):
        _distil(folder, {"before": {"selector": "random", "ipc": [11]}})
    assert _files(folder) == before
    _distil(folder, {"after": {"selector": "random", "ipc": [12]}})
    assert _metadata(folder, "after", 12).num_rows == 36
    assert {name: data for name, data in _files(folder).items() if "/before/" in name} == before


def test_what_cannot_be_made_is_refused_before_anything_is_written(scenes: Path, tmp_path: Path) -> None:
    rows = _score_rows(scenes)
    rows = [
        row for row in rows if (row["class_id"] != "sign" or row["error"]) and row["image_id"] != "train/leaf/00003.png"
    ]
    folder = _run_dir(tmp_path / "run", rows)
    record = (folder / "run.json").read_bytes()
    for wanted, said in [
        (
            {"ipc": [1, 12], "classes": ["fish", "leaf"]},
            r"sets\.mine\.ipc: class 'leaf': 12 images of each class are asked, and it has 11$",
        ),
        ({"ipc": [1]}, r"sets\.mine\.classes: class 'sign' has no scored image"),
        ({"classes": ["leaf", "only_val"]}, r"sets\.mine\.classes: there is no class 'only_val'"),
    ]:
        with pytest.raises(UserError, match=said):
            _distil(folder, {"mine": wanted})
    assert not (folder / "distilled").exists()
    assert (folder / "run.json").read_bytes() == record
    with pytest.raises(UserError, match="run `ddps score` first"):
        _distil(tmp_path / "empty", {"mine": {}})


@pytest.mark.usefixtures("ray_session")
def test_a_scored_image_that_is_gone_is_named_and_the_next_run_finishes(scenes: Path, tmp_path: Path) -> None:
    rows = _score_rows(scenes)
    home = Path(next(row["uri"] for row in rows if row["image_id"] == "train/leaf/00004.png"))
    gone = tmp_path / "leaf4.png"
    for row in rows:
        if row["image_id"] == "train/leaf/00004.png":
            row["uri"] = str(gone)
    folder = _run_dir(tmp_path / "run", rows)
    sets = {"ddps": {"ipc": [12]}}
    with pytest.raises(
        UserError, match=r"leaf4\.png was scored, but is not usable any more: cannot be read: FileNotFoundError$"
    ):
        _distil(folder, sets)
    gone.write_bytes(home.read_bytes()[:500])
    with pytest.raises(UserError, match=r"leaf4\.png was scored, but is not usable any more: cannot be decoded"):
        _distil(folder, sets)
    gone.write_bytes(home.read_bytes())
    _distil(folder, sets)
    assert _metadata(folder, "ddps", 12).num_rows == 36


@pytest.mark.usefixtures("ray_session")
def test_a_shard_that_is_damaged_inside_is_named_to_the_driver(scenes: Path, tmp_path: Path) -> None:
    folder = _run_dir(tmp_path / "run", _score_rows(scenes))
    path = folder / "scores" / "007.parquet"
    group = pq.read_metadata(path).row_group(0)
    column = next(
        each for each in map(group.column, range(group.num_columns)) if each.path_in_schema.startswith("dift")
    )
    data, start = bytearray(path.read_bytes()), column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    with pytest.raises(Exception, match="thrift") as caught:  # by a task: the driver reads other columns
        _distil(folder, {"ddps": {"ipc": [1]}})
    found = user_error(caught.value, str(folder))
    assert found is not None
    assert found.startswith(f"{path} is damaged (")
