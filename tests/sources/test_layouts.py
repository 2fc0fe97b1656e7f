"""The layout is found by looking, and the same images are the same rows in all of them."""

from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray import imaging, schemas
from ddps_ray.config import Data
from ddps_ray.errors import UserError
from ddps_ray.sources import layouts, listing, reading
from ddps_ray.sources.listing import Classes, Listing
from tests.sources import datasets
from tests.sources.datasets import WRITERS, Images

SPLITS = ["train", "val"]


@pytest.fixture(scope="module")
def photographs(shared: Path) -> Images:
    """Twenty photographs of ten classes, one for training and one for validation each."""
    files = sorted((shared / "imagenet-samples").glob("*/*.JPEG"))[:20]
    images: dict[str, dict[str, dict[str, bytes]]] = {"train": {}, "val": {}}
    for n, file in enumerate(files):
        class_id = files[n // 2 * 2].parent.name
        images[SPLITS[n % 2]].setdefault(class_id, {})[file.name] = file.read_bytes()
    return images


@pytest.fixture(scope="module")
def drawn(scenes: Path) -> Images:
    """Six drawn images; `val` has names of its own, as flat folders need."""
    return {
        split: {
            class_id: {
                f"{class_id}{path.name}": path.read_bytes()
                for path in sorted((scenes / split / class_id).iterdir())[:2]
            }
            for class_id in ("ball", "dice", "leaf")
        }
        for split in SPLITS
    }


def listed(root: Path) -> Listing:
    layout = layouts.find(str(root), SPLITS)
    return layouts.list_images(layout, str(root), SPLITS, None, None)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("which", ["photographs", "drawn"])
def test_a_layout_is_recognised_and_lists_the_same_images(
    layout: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    images: Images = request.getfixturevalue(which)
    if layout == "imagenet" and which == "drawn":
        pytest.skip("its class ids are WordNet ids")
    WRITERS[layout](tmp_path, images)
    assert layouts.find(str(tmp_path), SPLITS) == layout
    found = listed(tmp_path)
    labels = {class_id: label for label, class_id in enumerate(sorted(images["train"]))}
    for split in SPLITS:
        rows = found.splits[split].to_pylist()
        assert len(rows) == sum(map(len, images[split].values()))
        for row in rows:
            _, class_id, name = row["image_id"].split("/")
            assert row["image_id"] == f"{split}/{class_id}/{name}"
            assert (row["class_id"], row["label"], row["split"]) == (class_id, labels[class_id], split)
            picture = imaging.decode(images[split][class_id][name])
            assert np.array_equal(np.asarray(reading.read_image(row["uri"])), np.asarray(picture))
            assert reading.read_encoded(row["uri"]) == images[split][class_id][name]
    texts = {row["class_id"]: row["class_text"] for row in found.splits["train"].to_pylist()}
    assert texts == found.class_texts
    if which == "photographs":
        assert texts["n01558993"] == "American robin" or texts["n01558993"] == "robin"
    assert found.skipped == 0


def test_every_layout_can_be_asked_for_by_name() -> None:
    assert set(get_args(Data.model_fields["layout"].annotation)) == {layouts.AUTO, *layouts.LAYOUTS}


def test_a_folder_of_no_known_layout_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"has no data set of a known layout \(packed, .*imagefolder"):
        layouts.find(str(tmp_path), SPLITS)
    with pytest.raises(UserError, match=r"absent does not exist"):
        layouts.find(str(tmp_path / "absent"), SPLITS)
    assert layouts.find(str(tmp_path), SPLITS, "webdataset") == "webdataset"


def test_archives_beside_the_folders_they_unpack_to_are_not_taken_for_shards(tmp_path: Path, drawn: Images) -> None:
    WRITERS["imagefolder"](tmp_path, drawn)
    (tmp_path / "train.tar").write_bytes(b"\0" * 1024)
    assert layouts.find(str(tmp_path), SPLITS) == "imagefolder"


def _listing(ids: list[str], val: str = "a") -> Listing:
    known = Classes({"a": "a", "b": "b"}, {"a": 0, "b": 1})
    train = listing.rows("train", ids, [f"place {n}" for n in range(len(ids))], ["a"] * len(ids), known)
    return Listing({"train": train, "val": listing.rows("val", ["v"], ["x"], [val], known)}, known.texts, 0)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (_listing(["x", "y", "x"]), "two images have the id x: place 0 and place 2"),
        (_listing(["x", ""]), "an image's id is empty"),
        (_listing(["x", "train/a/../x"]), r"image id 'train/a/\.\./x' has a part \.\. or a control"),
        (_listing([".."]), r"image id '\.\.' has a part"),
        (_listing(["x\ny"]), r"image id 'x\\ny' has a part \.\. or a control character"),
        (_listing([]), "split 'train' has no images"),
        (_listing(["x"], "b"), "split 'val' has class b, of which the training split has no images"),
    ],
)
def test_a_listing_that_later_stages_could_not_use_is_refused(bad: Listing, said: str) -> None:
    with pytest.raises(UserError, match=said):
        listing.check(bad)


@pytest.mark.parametrize("class_id", ["", ".", "..", "../up", "a/b", "a\\b", "a\nb", "a\0", "a\x85"])
def test_a_class_that_could_not_be_a_folder_is_refused_whoever_names_it(class_id: str, tmp_path: Path) -> None:
    numbered, packed = tmp_path / "numbered", tmp_path / "packed"
    datasets.put(numbered / "train.parquet", "")
    pq.write_table(datasets.hf_table([{"bytes": b"x", "path": "a.jpg"}], [0], None), numbered / "train.parquet")
    row = {"image_id": "a", "class_id": class_id, "class_text": "c", "label": 0, "split": "train", "image": b"x"}
    datasets.put(packed / "packed.json", '{"splits": {"train": 1}}')
    columns = {name: [row.get(name)] for name in schemas.PACKED.names}
    pq.write_table(schemas.table(columns, schemas.PACKED), packed / "train-0.parquet")
    for root, layout in ((numbered, "huggingface"), (packed, "packed")):
        with pytest.raises(UserError, match="cannot be a folder's name") as caught:
            layouts.list_images(layout, str(root), ["train"], {class_id: "c"}, None)
        assert repr(class_id) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("class_id", ["...", "a..b", ".hidden", "hot dog", "ü", "n01440764"])
def test_any_other_class_is_taken(class_id: str) -> None:
    known = Classes({class_id: "c"}, {class_id: 0})
    found = Listing({"train": listing.rows("train", ["x..jpg"], ["x"], [class_id], known)}, known.texts, 0)
    assert listing.check(found) is found


def test_rows_are_manifest_rows_whatever_the_columns_are_made_of() -> None:
    known = Classes({"a": "A", "b": "B"}, {"a": 4, "b": 7})
    rows = listing.rows("train", pa.chunked_array([["1"], ["2"]]), ["x", "y"], pa.array(["b", "a"]), known)
    schemas.check(rows, schemas.MANIFEST)
    assert rows["label"].to_pylist() == [7, 4]
    assert rows["class_text"].to_pylist() == ["B", "A"]
