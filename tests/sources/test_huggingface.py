"""Parquet files of images and numbers: whose names count, which id an image gets, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import classes, huggingface, layouts, listing, reading
from ddps_ray.sources.listing import Options
from tests.sources.datasets import hf_table

IMAGENET = classes.read("imagenet-1k")
WNIDS = list(IMAGENET)


def cells(*paths: str | None) -> list[dict[str, Any] | None]:
    return [{"bytes": b"x", "path": path} for path in paths]


def write(root: Path, table: pa.Table, name: str = "train-00000-of-00001") -> Path:
    (root / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / "data" / f"{name}.parquet", row_group_size=2)
    return root


def ids(root: Path, names: dict[str, str] | None = None) -> list[str]:
    found = listing.check(huggingface.list_images(str(root), ["train"], names)).splits["train"]
    return [str(image_id) for image_id in found["image_id"].to_pylist()]


def test_an_image_is_called_as_its_file_was(tmp_path: Path) -> None:
    paths = cells("a/b/x.jpg", None, "", "C:\\y.png", "a_n01440764.JPEG")
    root = write(tmp_path, hf_table(paths, [1, 0, 1, 0, 0], ["cat", "hot dog"]))
    assert ids(root) == [
        "train/hot dog/x.jpg",
        "train/cat/train-00000-of-00001-1",
        "train/hot dog/train-00000-of-00001-2",
        "train/cat/y.png",
        "train/cat/a_n01440764.JPEG",
    ]
    rows = huggingface.list_images(str(root), ["train"]).splits["train"].to_pylist()
    assert [row["uri"].rpartition("#")[2] for row in rows] == [f"row={n}" for n in range(5)]
    assert [row["label"] for row in rows] == [1, 0, 1, 0, 0]


def test_imagenets_names_in_order_become_its_wnids_and_its_file_names(tmp_path: Path) -> None:
    names = [f"{name}, another word" for name in IMAGENET.values()]
    names[900] = "spelt otherwise"
    paths = cells("n01443537_7_n01443537.JPEG", "n01440764_1.JPEG", "ILSVRC2012_val_00000293_n01440764.JPEG")
    root = write(tmp_path, hf_table(paths, [1, 0, 0], names))
    assert ids(root) == [
        "train/n01443537/n01443537_7.JPEG",
        "train/n01440764/n01440764_1.JPEG",
        "train/n01440764/ILSVRC2012_val_00000293.JPEG",
    ]
    found = huggingface.list_images(str(root), ["train"])
    assert found.class_texts == {"n01440764": "tench", "n01443537": "goldfish"}
    reordered = write(tmp_path / "other", hf_table(paths, [1, 0, 0], list(reversed(names))))
    with pytest.raises(UserError, match="two of the data set's own classes are called 'maillot"):
        huggingface.list_images(str(reordered), ["train"])  # taken as they are, and not for ImageNet's


def test_without_names_the_users_nth_line_is_label_n(tmp_path: Path) -> None:
    root = write(tmp_path, hf_table(cells("a.jpg", "b.jpg"), [2, 0], None))
    assert layouts.find(str(root), ["train"]) == "huggingface"
    with pytest.raises(UserError, match=r"data\.classes: .* does not name them: give a CSV"):
        ids(root)
    assert ids(root, {"x": "X", "y": "Y", "z": "Z"}) == ["train/z/a.jpg", "train/x/b.jpg"]
    found = huggingface.list_images(str(root), ["train"], IMAGENET)
    assert found.splits["train"]["class_id"].to_pylist() == [WNIDS[2], WNIDS[0]]
    assert found.splits["train"]["label"].to_pylist() == [2, 0], "the data set's own, though two classes are used"
    with pytest.raises(UserError, match="an image with label 2; there are names for 0 to 1"):
        ids(root, {"x": "X", "y": "Y"})


def test_a_class_that_could_leave_its_folder_cannot(tmp_path: Path) -> None:
    root = write(tmp_path, hf_table(cells("a.jpg", "b.jpg"), [0, 1], ["../../etc", ".."]))
    assert ids(root) == ["train/.._.._etc/a.jpg", "train/__/b.jpg"]
    root = write(tmp_path, hf_table(cells("a.jpg", "b.jpg"), [0, 1], ["a/b", "a_b"]))
    with pytest.raises(UserError, match="two of the data set's own classes are called 'a_b'"):
        ids(root)


TWICE = pa.table({"image": pa.array([b"x"], pa.binary()), "label": [0]})


def labelled(labels: pa.Array) -> pa.Table:
    return pa.table({"image": pa.array([b"x"] * len(labels), pa.binary()), "label": labels})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (labelled(pa.array([0, 2**63 + 5], pa.uint64())), "row 1 has the label 9223372036854775813, over 2147483647"),
        (labelled(pa.array([2**31, 0], pa.int64())), "row 0 has the label 2147483648, over 2147483647"),
        (labelled(pa.array([2**32 - 1], pa.uint32())), "row 0 has the label 4294967295, over"),
        (labelled(pa.array([b"\xff"], pa.binary()).view(pa.string())), "cannot be read: .*Invalid UTF8"),
        (TWICE.append_column("label", TWICE["label"]), "no column `label` of whole numbers among image, label, label"),
        (hf_table(cells("a", "b"), [0, -1], ["x"]), r"row 1 has no label \(-1\)"),
        (hf_table(cells("a", "b"), [None, 0], ["x"]), r"row 0 has no label \(None\)"),
        (hf_table(cells("a", "b"), [0, 5], ["x"]), "an image with label 5; there are names for 0 to 0"),
        (hf_table(cells("d/a", "e/a"), [0, 0], ["x"]), "two images have the id train/x/a: .*row=0 and .*row=1"),
        (
            pa.table({"image": pa.array([b"x"], pa.binary()), "tag": [0]}),
            r"no column `label` of whole numbers among image, tag, nor of text: name the one .* data\.label_column",
        ),
        (pa.table({"image": pa.array([b"x"], pa.binary()), "label": [0.5]}), "no column `label` of whole numbers"),
        (pa.table({"image": pa.array([b"x"], pa.binary()), "label": [[0]]}), "no column `label` of whole numbers"),
        (
            pa.table({"image": pa.array([b"x", b"y"], pa.binary()), "label": ["a", None]}),
            r"row 1 has no label \(None\)",
        ),
        (pa.table({"image": pa.array([b"x", b"y"], pa.binary()), "label": ["a", " "]}), "row 1 has no label"),
        (
            pa.table({"image": pa.array([b"x"] * 2, pa.binary()), "label": ["a/b", "a_b"]}),
            "'a/b' and 'a_b' would both be",
        ),
        (
            pa.table({"picture": ["x.jpg"], "label": [0]}),
            "has no column of images among picture, label: paths to images are not followed",
        ),
        (
            pa.table({"jpg": pa.array([b"x"], pa.binary()), "label": [0]}),
            r"has no column of images among jpg, label: name one in data\.image_column, such as jpg",
        ),
    ],
)
def test_what_cannot_be_listed_is_named(tmp_path: Path, table: pa.Table, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        ids(write(tmp_path, table))
    assert str(tmp_path) in str(caught.value) or "two images" in str(caught.value)
    assert "\n" not in str(caught.value)


def described(metadata: Any) -> pa.Table:
    """Two images with the labels 0 and 1, and metadata of Hugging Face: text, or what the features are."""
    table = hf_table(cells("a.jpg", "b.jpg"), [0, 1], None)
    text = metadata if isinstance(metadata, str) else json.dumps({"info": {"features": metadata}})
    return table.replace_schema_metadata({"huggingface": text})


def of_names(names: Any) -> dict[str, Any]:
    return {"label": {"_type": "ClassLabel", "names": names}}


@pytest.mark.parametrize("kind", [pa.uint64(), pa.uint32(), pa.int8(), pa.uint8()])
def test_whole_numbers_of_any_width_are_labels(tmp_path: Path, kind: pa.DataType) -> None:
    images = hf_table(cells("a.jpg", "b.jpg"), [0, 1], None)["image"]
    root = write(tmp_path, pa.table({"image": images, "label": pa.array([1, 0], kind)}))
    assert ids(root, {"x": "X", "y": "Y"}) == ["train/y/a.jpg", "train/x/b.jpg"]


@pytest.mark.parametrize(
    "names", [{"1": "bee", "0": "ape"}, {**{str(n): f"no. {n}" for n in range(11, 1, -1)}, "1": "bee", "0": "ape"}]
)
def test_names_by_number_are_those_of_the_numbers(tmp_path: Path, names: dict[str, str]) -> None:
    assert ids(write(tmp_path, described(of_names(names)))) == ["train/ape/a.jpg", "train/bee/b.jpg"]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (of_names({"1": "one", "2": "two"}), "the names of the labels 'label' .* not numbered from 0 to 1: 1, 2"),
        (of_names({"ape": "x", "bee": "y"}), "not numbered from 0 to 1: ape, bee"),
        (of_names({"0": "x", "00": "y"}), "not numbered from 0 to 1: 0, 00"),
        (of_names({"0": "x", "1" * 9999: "y"}), "not numbered from 0 to 1: 0, 1111"),
        (of_names({"0": "x", "-1": "y"}), "not numbered from 0 to 1: -1, 0"),
        (of_names(7), "the names of the labels 'label' in its metadata are no list of texts"),
        (of_names("ab"), "are no list of texts"),
        (of_names([["ape"], ["bee"]]), "are no list of texts"),
        (of_names(["ape", None]), "are no list of texts"),
        ([{"name": "label"}], "the features in its metadata 'huggingface' are no table of columns"),
        ("[" * 100_000, "its metadata 'huggingface' are nested too deeply"),
    ],
)
def test_names_that_cannot_be_told_are_refused(tmp_path: Path, metadata: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        ids(write(tmp_path, described(metadata)))
    assert "train-00000-of-00001.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("metadata", ["{", "[]", "null", '{"info": {}}', '{"info": {"features": null}}'])
def test_metadata_without_names_leave_them_to_the_user(tmp_path: Path, metadata: str) -> None:
    root = write(tmp_path, described(metadata))
    assert ids(root, {"x": "X", "y": "Y"}) == ["train/x/a.jpg", "train/y/b.jpg"]


def test_text_in_one_file_and_numbers_in_another_are_refused(tmp_path: Path) -> None:
    write(tmp_path, labelled(pa.array([0, 1])), "train-00000-of-00002")
    write(tmp_path, labelled(pa.array(["0", "1"])), "train-00001-of-00002")
    with pytest.raises(
        UserError, match=r"labels are int64 in .*00000-of-00002\.parquet and string in .*00001-of-00002"
    ):
        ids(tmp_path, {"0": "ape", "1": "bee"})


def test_files_are_listed_in_their_order(tmp_path: Path) -> None:
    for n in range(70):  # more than are read at the same time
        write(tmp_path, hf_table(cells(f"{n}.jpg"), [n % 2], ["ape", "bee"]), f"train-{n:05d}-of-00070")
    assert ids(tmp_path) == [f"train/{('ape', 'bee')[n % 2]}/{n}.jpg" for n in range(70)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ape", "cat"], r"label 1 is called 'cat' in .*val\.parquet, called 'bee' in .*train-00000-of-00001\.parquet"),
        (["ape", "bee"], r"label 2 is not named in .*val\.parquet, called 'cat' in"),
        (None, r"label 0 is not named in .*val\.parquet, called 'ape' in"),
    ],
)
def test_a_file_that_names_its_labels_otherwise_is_refused(tmp_path: Path, names: list[str] | None, said: str) -> None:
    write(tmp_path, hf_table(cells("a.jpg", "b.jpg"), [0, 1], ["ape", "bee", "cat"]))
    write(tmp_path, hf_table(cells("c.jpg", "d.jpg"), [0, 1], names), "val")
    with pytest.raises(UserError, match=said):
        huggingface.list_images(str(tmp_path), ["train", "val"])


def test_masks_beside_the_images_are_not_taken_for_them(tmp_path: Path) -> None:
    def columns(*names: str) -> pa.Table:
        plain = hf_table([{"bytes": b"image", "path": "a.jpg"}], [0], ["ape"])
        masks = hf_table([{"bytes": b"mask", "path": "m.png"}], [0], None)["image"]
        found = {"mask": masks, **dict.fromkeys(names, plain["image"]), "label": plain["label"]}
        return pa.table(found, metadata=plain.schema.metadata)

    for name in ("image", "img"):
        root = write(tmp_path / name, columns(name))
        assert ids(root) == ["train/ape/a.jpg"]
        rows = huggingface.list_images(str(root), ["train"]).splits["train"]
        assert reading.read_encoded(rows["uri"][0].as_py()) == b"image"
    root = write(tmp_path / "photo", columns("photo"))
    assert layouts.find(str(root), ["train"]) == "huggingface"
    with pytest.raises(
        UserError, match=r"parquet has 2 columns of images, none of them called image, among mask, photo"
    ):
        ids(root, {"ape": "ape"})


def coded(**names: list[str] | None) -> pa.Table:
    """Two images with columns of labels 0 and 1, of which some have names in the file."""
    images = hf_table([{"bytes": name.encode(), "path": f"{name}.jpg"} for name in ("one", "two")], [0, 1], None)
    features = {name: {"_type": "ClassLabel", "names": said} for name, said in names.items() if said is not None}
    table = pa.table({"img": images["image"], **dict.fromkeys(names, images["label"])})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def with_options(root: Path, names: dict[str, str] | None = None, **options: Any) -> listing.Listing:
    return layouts.list_images("huggingface", str(root), ["train"], names, None, Options(**options))


def test_of_several_labels_one_must_be_named(tmp_path: Path) -> None:
    root = write(tmp_path, coded(fine_label=["ape", "bee"], coarse_label=["mammal", "insect"]))
    with pytest.raises(UserError, match=r"has the labels fine_label, coarse_label: name one in data\.label_column"):
        with_options(root)
    for column, expected in (("fine_label", ["ape", "bee"]), ("coarse_label", ["mammal", "insect"])):
        rows = with_options(root, label_column=column).splits["train"]
        assert rows["class_id"].to_pylist() == expected
        assert rows["image_id"].to_pylist() == [f"train/{expected[0]}/one.jpg", f"train/{expected[1]}/two.jpg"]
        assert [reading.read_encoded(uri) for uri in rows["uri"].to_pylist()] == [b"one", b"two"]
    with pytest.raises(UserError, match=r"^data\.label_column: .*has no column 'other' among img, fine_label"):
        with_options(root, label_column="other")
    with pytest.raises(
        UserError, match=r"^data\.label_column: .*'img' is struct.*, and neither whole numbers nor text"
    ):
        with_options(root, label_column="img")


def test_the_only_label_that_is_named_is_taken(tmp_path: Path) -> None:
    root = write(tmp_path / "one", coded(kind=["ape", "bee"], weight=None))
    assert with_options(root).splits["train"]["class_id"].to_pylist() == ["ape", "bee"]
    root = write(tmp_path / "none", coded(kind=None, weight=None))
    with pytest.raises(UserError, match="no column `label` of whole numbers among img, kind, weight"):
        with_options(root)
    found = with_options(root, {"a": "A", "b": "B"}, label_column="weight")
    assert found.splits["train"]["class_id"].to_pylist() == ["a", "b"]


def test_labels_of_text_are_names_of_classes(tmp_path: Path) -> None:
    images = hf_table([{"bytes": b"x", "path": f"{n}.jpg"} for n in range(3)], [0, 0, 0], None)["image"]
    for n, kind in enumerate((pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))):
        labels = pa.array(["polar_bear", "n01440764", "polar_bear"]).cast(kind)
        root = write(tmp_path / str(n), pa.table({"image": images, "label": labels}))
        found = with_options(root)
        rows = found.splits["train"]
        assert rows["image_id"].to_pylist() == [
            "train/polar_bear/0.jpg",
            "train/n01440764/1.jpg",
            "train/polar_bear/2.jpg",
        ]
        assert rows["label"].to_pylist() == [1, 0, 1]
        assert found.class_texts == {"n01440764": "tench", "polar_bear": "polar bear"}
        assert rows["wnid"].to_pylist() == [None, "n01440764", None]


def test_a_column_of_images_can_be_named(tmp_path: Path) -> None:
    left, right = (hf_table([{"bytes": side, "path": "x.jpg"}], [0], None)["image"] for side in (b"left", b"right"))
    table = pa.table({"left": left, "the right": right, "raw": pa.array([b"raw"], pa.binary()), "label": ["ape"]})
    root = write(tmp_path, table)
    with pytest.raises(UserError, match=r"has 2 columns of images, .*: name one in data\.image_column"):
        with_options(root)
    for column, name in (("left", "x.jpg"), ("the right", "x.jpg"), ("raw", "train-00000-of-00001-0")):
        rows = with_options(root, image_column=column).splits["train"]
        assert rows["image_id"].to_pylist() == [f"train/ape/{name}"]
        assert reading.read_encoded(rows["uri"][0].as_py()) == column.removeprefix("the ").encode()
    with pytest.raises(UserError, match=r"^data\.image_column: .*has no column 'label' of encoded images among left"):
        with_options(root, image_column="label")


def test_names_of_a_part_of_imagenet_become_wordnet_ids_where_that_is_said(tmp_path: Path) -> None:
    table = hf_table(cells("n02869837_7.JPEG", "x.JPEG"), [0, 1], ["bonnet, poke bonnet", "cassette player"])
    root = write(tmp_path, table)
    found = huggingface.list_images(str(root), ["train"], IMAGENET)
    rows = found.splits["train"]
    assert rows["image_id"].to_pylist() == ["train/n02869837/n02869837_7.JPEG", "train/n02979186/x.JPEG"]
    assert (rows["label"].to_pylist(), list(found.class_texts.values())) == ([0, 1], ["bonnet", "cassette player"])
    assert ids(root) == ["train/bonnet, poke bonnet/n02869837_7.JPEG", "train/cassette player/x.JPEG"]
    root = write(tmp_path / "other", hf_table(cells("a", "b"), [0, 1], ["bonnet, poke bonnet", "crane"]))
    with pytest.raises(UserError, match="'crane' is that of several of its classes"):
        ids(root, IMAGENET)  # type: ignore[arg-type]


def test_a_name_that_is_too_long_for_a_folder_is_cut(tmp_path: Path) -> None:
    long = "very " * 60 + "long"
    found = huggingface.list_images(str(write(tmp_path, hf_table(cells("a"), [0], [long]))), ["train"])
    ((class_id, text),) = found.class_texts.items()
    assert (len(class_id), text) == (255, long)


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "train-0.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(
        UserError, match=r"train-0\.parquet cannot be read: it only points to what Git LFS has: fetch it"
    ):
        ids(tmp_path)


def test_a_row_group_that_is_too_large_to_be_read_whole_is_named(tmp_path: Path) -> None:
    table = pa.concat_tables([hf_table([{"bytes": bytes(2**26), "path": "a.jpg"}], [0], ["ape"])] * 17)
    pq.write_table(table, tmp_path / "train.parquet", compression="lz4", use_dictionary=False, write_statistics=False)
    with pytest.raises(
        UserError, match=r"train\.parquet: the images of row group 0 have 1\.1 GiB, .* smaller row groups"
    ):
        ids(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, hf_table(cells("a"), [0], ["x"]), "train-00000-of-00002")
    (tmp_path / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet cannot be read"):
        ids(tmp_path)
