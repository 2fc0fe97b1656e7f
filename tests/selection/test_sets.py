"""What a set depends on, what it is known by, and how many bytes it has."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddps_ray import config, schemas, storage
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.selection import records, sets
from ddps_ray.selection.sets import METADATA
from ddps_ray.storage import Run

ROW = {
    "file": "train/leaf/00000.png",
    "slot": 0,
    "image_id": "train/leaf/4.png",
    "class_id": "leaf",
    "label": 1,
    "left": 2,
    "top": 3,
    "width": 8,
    "height": 8,
    "scaled_width": 16,
    "scaled_height": 16,
    "typicality": 0.25,
    "cluster": None,
    "cluster_typicality": None,
    "rank": None,
    "reason": "random",
}


def _recipe(run: Run, **distill: Any) -> Recipe:
    values = {"run_dir": run.uri, "data": {"root": "unused"}, "model": {"path": "unused"}, "distill": distill}
    return config.parse(values, "test")


def _set(folder: Path, *changes: dict[str, Any], side: int = 16) -> str:
    """A set with a row and an image for each of the changes to `ROW`."""
    rows = [ROW | change for change in changes]
    for row in rows:
        (folder / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side)).save(folder / row["file"])
    columns = {name: [row[name] for row in rows] for name in schemas.DISTILLED.names}
    storage.write_table(str(folder / METADATA), schemas.table(columns, schemas.DISTILLED))
    return str(folder)


TWO: tuple[dict[str, Any], ...] = ({}, {"file": "train/leaf/00001.png", "image_id": "train/leaf/5.png"})


def test_a_digest_is_of_the_rows_and_the_size_of_the_images(tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if value is not None}
    lines = [json.dumps(row | change, sort_keys=True) + "\n" for change in TWO]
    expected = hashlib.sha256(("[16, 16]" + "".join(lines)).encode()).hexdigest()
    assert sets.digest(_set(tmp_path / "a", *TWO)) == expected


def test_a_digest_is_the_same_however_the_rows_are_stored(tmp_path: Path) -> None:
    digest = sets.digest(_set(tmp_path / "a", *TWO))
    rows = pq.read_table(tmp_path / "a" / METADATA).drop_columns("cluster_typicality")  # of an earlier layout
    pq.write_table(rows, tmp_path / "a" / METADATA, row_group_size=1, compression="none", use_dictionary=False)
    assert sets.digest(str(tmp_path / "a")) == digest


@pytest.mark.parametrize(
    "rows",
    [
        (TWO[1], TWO[0]),
        TWO[:1],
        (TWO[0] | {"left": 1}, TWO[1]),
        (TWO[0] | {"image_id": "train/leaf/9.png"}, TWO[1]),
        (TWO[0], TWO[1] | {"typicality": 0.5}),
    ],
)
def test_other_rows_have_another_digest(rows: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    assert sets.digest(_set(tmp_path / "a", *rows)) != sets.digest(_set(tmp_path / "b", *TWO))


def test_images_of_another_size_or_format_have_another_digest(tmp_path: Path) -> None:
    jpg = tuple({"file": f"train/leaf/{number:05d}.jpg"} for number in range(2))
    digests = [
        sets.digest(_set(tmp_path / "a", *TWO)),
        sets.digest(_set(tmp_path / "b", *TWO, side=8)),
        sets.digest(_set(tmp_path / "c", *jpg)),
    ]
    assert len(set(digests)) == 3


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    uri = _set(tmp_path / "a", *TWO)
    (tmp_path / "a" / ROW["file"]).unlink()
    with pytest.raises(UserError, match=r"00000\.png is in the set's metadata, but cannot be read"):
        sets.digest(uri)
    (tmp_path / "a" / METADATA).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"metadata\.parquet: .*: delete it, and `ddps distill` makes the set again"):
        sets.digest(uri)


def test_bytes_are_those_of_the_images_alone(tmp_path: Path) -> None:
    uri = _set(tmp_path / "a", *TWO)
    for number, size in enumerate((700, 11)):
        (tmp_path / "a" / "train" / "leaf" / f"0000{number}.png").write_bytes(b"x" * size)
    (tmp_path / "a" / "train" / "leaf" / ".00001.png.0badc0de").write_bytes(b"cut off")
    assert sets.bytes_of(uri) == 711


def test_a_set_depends_on_what_its_selector_reads() -> None:
    run = Run("/nowhere")
    two = {"ddps": {"classes": ["b", "a", "b"], "ipc": [3]}, "chance": {"selector": "random", "seed": 4, "ipc": [11]}}
    recipe = _recipe(run, sets=two, clusters=5)
    common = {"size": 224, "format": "png"}
    assert sets.settings(recipe, "ddps", 3) == common | {
        "selector": "ddps",
        "clusters": 5,
        "top_clusters": 10,
        "seed": 0,
        "classes": ["a", "b"],
        "ipc": 3,
        "composition": "mosaic",
    }
    assert sets.settings(recipe, "chance", 11) == common | {
        "selector": "random",
        "seed": 4,
        "classes": None,
        "ipc": 11,
        "composition": "single",
    }


def test_sets_of_one_name_are_told_apart_at_every_ipc(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    many = [f"n{number:08d}" for number in range(30)]
    for own, ipcs in [
        ({}, (1, 20)),
        ({"seed": 1, "classes": many}, (20, 50)),
        ({"composition": "mosaic"}, (20,)),
    ]:
        recipe = _recipe(run, sets={"ddps": own | {"ipc": list(ipcs)}, "other": {"ipc": [1]}})
        for name, ipc in [("ddps", ipc) for ipc in ipcs] + [("other", 1)]:
            stage, uri = sets.location(run, recipe, name, ipc)
            assert uri == f"{run.uri}/distilled/{stage.removeprefix('distill/')}"
            run.claim(stage, sets.settings(recipe, name, ipc))
    digest = hashlib.sha256("\n".join(many).encode()).hexdigest()[:8]
    seed = f"classes=30 of digest {digest}, seed=1"
    found = sorted((each.stage.partition("~")[0], each.differs) for each in records.recorded(run))
    assert found == [
        ("distill/ddps/ipc=1", "classes=all, seed=0"),
        ("distill/ddps/ipc=20", seed.replace(", ", ", composition=single, ")),
        ("distill/ddps/ipc=20", "classes=all, composition=mosaic, seed=0"),
        ("distill/ddps/ipc=20", "classes=all, composition=single, seed=0"),
        ("distill/ddps/ipc=50", seed),
        ("distill/other/ipc=1", ""),
    ]
    assert len({each.stage for each in records.recorded(run)}) == 6
