"""The layout is found by looking, and the same images are the same rows in all of them."""

import json
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
from ddps_ray.sources.listing import Classes, Listing, Options
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


def test_a_flat_folder_is_told_what_to_do(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.JPG", "labels.csv"):
        datasets.put(tmp_path / name, "")
    with pytest.raises(
        UserError, match=r"layout \(packed, .*\); it has 2 images in no folder: move each into train/<class>"
    ):
        layouts.find(str(tmp_path), SPLITS)


def test_a_root_that_is_a_folder_too_high_or_too_low_is_told(tmp_path: Path, drawn: Images) -> None:
    WRITERS["imagefolder"](tmp_path / "ILSVRC" / "Data" / "CLS-LOC", drawn)
    datasets.put(tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC" / "train" / "ball" / "1.xml", "")
    with pytest.raises(UserError, match=rf"but one of its folders has: {tmp_path}/ILSVRC/Data/CLS-LOC$"):
        layouts.find(str(tmp_path), SPLITS)
    low = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train"
    with pytest.raises(
        UserError, match=r"it has ball, dice, leaf; if this is the split itself, set data\.root=.*CLS-LOC$"
    ):
        layouts.list_images(layouts.find(str(low), SPLITS), str(low), SPLITS, None, None)


@pytest.mark.parametrize("layout", ["huggingface", "webdataset"])
def test_a_split_under_another_name_is_offered(layout: str, tmp_path: Path, drawn: Images) -> None:
    WRITERS[layout](tmp_path, {"train": drawn["train"], "validation": drawn["val"]})
    with pytest.raises(UserError, match=r"has no split 'val'; it has .*: set data\.val=(some-)?validation"):
        layouts.list_images(layout, str(tmp_path), SPLITS, None, None)


@pytest.mark.parametrize(
    ("layout", "options", "said"),
    [
        (
            "webdataset",
            Options(class_folders="leaf"),
            r"^data\.class_folders: the layout webdataset has no use for it; imagef",
        ),
        (
            "imagefolder",
            Options(label_column="x"),
            r"^data\.label_column: .*imagefolder has no use .*; huggingface and webd",
        ),
        ("cifar10", Options(image_column="x"), r"^data\.image_column: the layout cifar10"),
    ],
)
def test_a_setting_that_a_layout_does_not_heed_is_refused(
    layout: str, options: Options, said: str, tmp_path: Path, drawn: Images
) -> None:
    WRITERS["imagefolder"](tmp_path, drawn)
    with pytest.raises(UserError, match=said):
        layouts.list_images(layout, str(tmp_path), SPLITS, None, None, options)


def test_archives_beside_the_folders_they_unpack_to_are_not_taken_for_shards(tmp_path: Path, drawn: Images) -> None:
    WRITERS["imagefolder"](tmp_path, drawn)
    (tmp_path / "train.tar").write_bytes(b"\0" * 1024)
    assert layouts.find(str(tmp_path), SPLITS) == "imagefolder"


def test_an_archive_beside_parquet_files_is_not_taken_for_shards(tmp_path: Path, drawn: Images) -> None:
    WRITERS["huggingface"](tmp_path, drawn)
    datasets.tar(tmp_path / "raw.tar", {"1.jpg": b"x"})
    assert layouts.find(str(tmp_path), SPLITS) == "huggingface"
    datasets.tar(tmp_path / "train-0.tar", {"1.jpg": b"x"})
    assert layouts.find(str(tmp_path), SPLITS) == "webdataset"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["data_batch_1", "batches.meta"], "it is CIFAR for Python, which is pickled and never loaded"),
        (["train.tfrecord", "dataset.json"], r"its files are 1 \.json, 1 \.tfrecord$"),
        (["train/data-00000-of-00001.arrow", "val/x"], r"train has no class folders; its files are 1 \.arrow$"),
        (["images/cat/1.jpg", "cat/1.jpg"], "the classes, move them into a folder train/ there, or set"),
    ],
)
def test_a_format_that_is_not_read_is_told(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        datasets.put(tmp_path / name, "")
    with pytest.raises(UserError, match=said):
        layouts.list_images(layouts.find(str(tmp_path), SPLITS), str(tmp_path), SPLITS, None, None)


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


def test_a_class_id_that_is_too_long_for_a_folder_is_refused() -> None:
    for size in (255, 256):
        class_id = "é" * 127 + "x" * (size - 254)
        known = Classes({class_id: "c"}, {class_id: 0})
        found = Listing({"train": listing.rows("train", ["x"], ["x"], [class_id], known)}, known.texts, 0)
        if size == 255:
            assert listing.check(found) is found
            continue
        with pytest.raises(UserError, match=r"class id 'é{40}'… cannot be a folder's name: it has 256 bytes, over 255"):
            listing.check(found)


def test_a_packed_data_set_keeps_the_wordnet_ids_of_its_classes(tmp_path: Path) -> None:
    row = {"image_id": "a", "class_id": "00", "class_text": "c", "label": 0, "split": "train", "image": b"x"}
    datasets.put(tmp_path / "packed.json", '{"splits": {"train": 1}}')
    for wnid, columns in (("n01440764", schemas.PACKED.names), (None, schemas.PACKED.names[:-1])):  # and one of before
        table = schemas.table({name: [(row | {"wnid": wnid}).get(name)] for name in columns}, schemas.PACKED)
        pq.write_table(table.select(columns), tmp_path / "train-0.parquet")
        rows = layouts.list_images("packed", str(tmp_path), ["train"], None, None).splits["train"]
        assert rows["wnid"].to_pylist() == [wnid]
        (tmp_path / "packed.json").rename(tmp_path / "aside")
        assert layouts.find(str(tmp_path), ["train"]) == "packed", "also before it is finished"
        (tmp_path / "aside").rename(tmp_path / "packed.json")


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
    assert rows["wnid"].to_pylist() == [None, None]


@pytest.mark.parametrize("label", [9876543210, -1])
def test_a_label_that_is_no_label_is_refused(label: int) -> None:
    known = Classes({"a": "A"}, {"a": label})
    with pytest.raises(
        UserError, match=rf"label {label} cannot be used: labels must be whole numbers from 0 to 2\*\*31"
    ):
        listing.rows("train", ["1"], ["x"], ["a"], known)
    known = Classes({"a": "A"}, {"a": 2**31 - 1})
    assert listing.rows("train", ["1"], ["x"], ["a"], known)["label"].to_pylist() == [2**31 - 1]


def test_rows_whose_files_are_all_called_alike_get_ids_of_their_own(tmp_path: Path) -> None:
    cells: list[dict[str, object] | None] = [{"bytes": b"x", "path": "image.jpg"}] * 3
    pq.write_table(datasets.hf_table(cells, [0, 0, 1], ["a", "b"]), tmp_path / "train-0-of-1.parquet")
    found = layouts.list_images("huggingface", str(tmp_path), ["train"], None, None)
    assert found.splits["train"]["image_id"].to_pylist() == [
        "train/a/train-0-of-1-0",
        "train/a/train-0-of-1-1",
        "train/b/train-0-of-1-2",
    ]
    assert len(found.notes) == 1


def test_cifar_100_as_the_hub_has_it(tmp_path: Path) -> None:
    """`img`, and two labels of which one must be named."""
    images = pa.array([{"bytes": b"x", "path": None}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    names = {"fine_label": ["apple", "bear"], "coarse_label": ["fruit", "carnivores"]}
    features = {name: {"names": each, "_type": "ClassLabel"} for name, each in names.items()}
    said = {"huggingface": json.dumps({"info": {"features": {"img": {"_type": "Image"}, **features}}})}
    table = pa.table({"img": images, "fine_label": [1, 0], "coarse_label": [1, 0]}).replace_schema_metadata(said)
    for split in ("train", "test"):
        path = tmp_path / "cifar100" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path)
    splits = ["train", "test"]
    assert layouts.find(str(tmp_path), splits) == "huggingface"
    with pytest.raises(UserError, match=r"has the labels fine_label, coarse_label: name one in data\.label_column"):
        layouts.list_images("huggingface", str(tmp_path), splits, None, None)
    found = layouts.list_images("huggingface", str(tmp_path), splits, None, None, Options(label_column="fine_label"))
    assert found.splits["test"]["image_id"].to_pylist() == [
        "test/bear/test-00000-of-00001-0",
        "test/apple/test-00000-of-00001-1",
    ]


def test_a_data_set_is_looked_for_below_but_not_in_splits_of_other_names(tmp_path: Path, drawn: Images) -> None:
    WRITERS["imagefolder"](tmp_path / "training" / "x", drawn)
    assert layouts.find(str(tmp_path), SPLITS) == "imagefolder", "whose error offers the split"
    WRITERS["imagefolder"](tmp_path / "b" / "deep" / "er", drawn)
    assert layouts.find(str(tmp_path), SPLITS) == "imagefolder"
    with pytest.raises(UserError, match=rf"one of its folders has: {tmp_path}/b/deep/er$"):
        layouts.find(str(tmp_path / "b"), SPLITS)


def test_the_nearest_data_set_is_found_and_not_all_folders_are_searched(tmp_path: Path, drawn: Images) -> None:
    for n in range(4):
        for k in range(4):
            datasets.put(tmp_path / f"empty{n}" / f"{k}" / "notes.txt", "")
    WRITERS["imagefolder"](tmp_path / "empty0" / "0" / "far", drawn)
    WRITERS["imagefolder"](tmp_path / "near", drawn)
    with pytest.raises(UserError, match=rf"one of its folders has: {tmp_path}/near$"):
        layouts.find(str(tmp_path), SPLITS)


def test_a_folder_that_has_changed_is_looked_at_again(tmp_path: Path, drawn: Images) -> None:
    datasets.put(tmp_path / "notes.txt", "")
    with pytest.raises(UserError, match="no data set of a known layout"):
        layouts.find(str(tmp_path), SPLITS)
    WRITERS["imagefolder"](tmp_path, drawn)
    assert layouts.find(str(tmp_path), SPLITS) == "imagefolder"
