"""Tar shards: images and labels find each other, nothing climbs out, and damage is said instead of hidden."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import layouts, reading, webdataset
from ddps_ray.sources.listing import PLAIN, Listing, Options
from tests.sources.datasets import put, tar

NAMES = {"ape": "an ape", "bee": "a bee"}


def listed(root: Path, names: dict[str, str] | None = None, options: Options = PLAIN) -> Listing:
    return layouts.list_images("webdataset", str(root), ["train"], names, None, options)


def ids(found: Listing) -> list[str]:
    return [str(image_id) for image_id in found.splits["train"]["image_id"].to_pylist()]


def test_numbers_are_labels_and_the_users_names_say_whose(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"1.cls": b"1\n", "1.JPG": b"one", "x.y.2.png": b"two", "x.y.2.cls": b"0"})
    tar(tmp_path / "train-1.tar", {"./train/bee/3.jpeg": b"three", "./train/bee/3.cls": b" 1", "3.json": b"{}"})
    found = listed(tmp_path, NAMES)
    assert ids(found) == ["train/bee/1.JPG", "train/ape/x.y.2.png", "train/bee/3.jpeg"]
    assert found.splits["train"]["label"].to_pylist() == [1, 0, 1]
    uris = found.splits["train"]["uri"].to_pylist()
    assert [reading.read_encoded(uri) for uri in uris] == [b"one", b"two", b"three"]
    assert found.class_texts == NAMES
    assert (found.skipped, found.notes) == (0, ())
    with pytest.raises(UserError, match="numbers its classes"):
        listed(tmp_path)


def test_text_is_a_class_id_and_labels_are_in_its_order(tmp_path: Path) -> None:
    tar(tmp_path / "train.tar", {"1.cls": b"zebra", "1.jpg": b"", "2.cls": b"hot/dog", "2.jpg": b""})
    found = listed(tmp_path)
    assert ids(found) == ["train/zebra/1.jpg", "train/hot_dog/2.jpg"]
    assert found.splits["train"]["label"].to_pylist() == [1, 0]
    tar(tmp_path / "train.tar", {"1.cls": b"zebra", "1.jpg": b"", "2.cls": b"0", "2.jpg": b""})
    with pytest.raises(UserError, match="with numbers and others with text"):
        listed(tmp_path)


def test_two_labels_that_would_be_one_class_are_named(tmp_path: Path) -> None:
    tar(tmp_path / "train.tar", {"1.cls": b"cat/big", "1.jpg": b"", "2.cls": b"dog", "2.jpg": b""})
    tar(tmp_path / "val.tar", {"1.cls": b"cat_big", "1.jpg": b""})
    with pytest.raises(UserError, match="the labels 'cat/big' and 'cat_big' would both be 'cat_big'"):
        webdataset.list_images(str(tmp_path), ["train", "val"])


def test_what_has_no_partner_is_skipped_and_said(tmp_path: Path) -> None:
    members = {"1.cls": b"a", "1.jpg": b"x", "2.jpg": b"x", "3.cls": b"a", "4.cls": b"", "4.jpg": b"x", "._1.jpg": b"x"}
    tar(tmp_path / "train-0.tar", members)
    found = listed(tmp_path)
    assert ids(found) == ["train/a/1.jpg"]
    assert found.skipped == 3
    assert [note.partition(": ")[2] for note in found.notes] == [
        "2 images without a .cls are skipped",
        "1 .cls without an image are skipped",
    ]


def test_a_members_path_is_a_name_and_no_more(tmp_path: Path) -> None:
    members = {"/etc/passwd.jpg": b"1", "/etc/passwd.cls": b"..", "a/../../b.jpg": b"2", "a/../../b.cls": b"../c"}
    tar(tmp_path / "train-0.tar", members)
    found = listed(tmp_path)
    assert ids(found) == ["train/__/etc/passwd.jpg", "train/.._c/a/b.jpg"]
    assert [path.name for path in tmp_path.rglob("*")] == ["train-0.tar"]


def test_long_and_odd_names_survive(tmp_path: Path) -> None:
    long = "d" * 150 + "/" + "ü" * 90
    tar(tmp_path / "train-0.tar", {f"{long}.jpg": b"x", f"{long}.cls": b"a"})
    assert ids(listed(tmp_path)) == [f"train/a/{long}.jpg"]


def test_a_shard_that_is_cut_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    members = {f"{n}.{end}": data for n in range(3) for end, data in (("cls", b"a"), ("jpg", b"x" * 600))}
    tar(tmp_path / "train-0.tar", members)
    whole = (tmp_path / "train-0.tar").read_bytes()
    each = 2 * 512 + 512 + 1024
    cases = {
        each: (1, ["train/a/0.jpg"]),  # right behind the first pair: a tar file may end so
        each + 100: (1, ["train/a/0.jpg"]),
        2 * each - 900: (2, ["train/a/0.jpg", "train/a/1.jpg"]),  # the second image is cut
        2 * each - 424: (2, ["train/a/0.jpg", "train/a/1.jpg"]),  # only its padding is
    }
    for size, (count, expected) in cases.items():
        (tmp_path / "train-0.tar").write_bytes(whole[:size])
        found = listed(tmp_path)
        assert ids(found) == expected, size
        assert len(expected) == count
        assert bool(found.notes) == (size != each), size
    (tmp_path / "train-0.tar").write_bytes(whole[:each] + b"\xff" * 512 + whole[each + 512 :])
    assert "ends too early or is damaged: 2 files were found" in listed(tmp_path).notes[0]


@pytest.mark.parametrize("data", [b"", b"no tar file at all" * 100])
def test_what_is_no_tar_file_is_named(tmp_path: Path, data: bytes) -> None:
    put(tmp_path / "train-7.tar", data)
    with pytest.raises(UserError, match=r"train-7\.tar is not a tar file"):
        listed(tmp_path)


def said(**values: object) -> bytes:
    return json.dumps(values).encode()


def test_each_ending_of_an_image_counts_and_others_are_said(tmp_path: Path) -> None:
    endings = ["webp", "JPG", "jfif", "ppm", "tif", "avif"]
    members = {f"{n}.{ending}": b"x" for n, ending in enumerate(endings)} | {f"{n}.cls": b"a" for n in range(6)}
    others = {"7.heic": b"x", "7.cls": b"a", "8.npy": b"x", "9.npy": b"x", "0.txt": b"a caption", "0.json": b"{}"}
    tar(tmp_path / "train-0.tar", members | others)
    found = listed(tmp_path)
    assert ids(found) == [f"train/a/{n}.{ending}" for n, ending in enumerate(endings)]
    assert [note.removeprefix(f"{tmp_path}/") for note in found.notes] == [
        "train-0.tar: 1 .cls without an image are skipped",
        "other files are skipped: 2 .npy, 1 .heic, 1 .txt",
    ]
    assert found.skipped == 5


@pytest.mark.parametrize("key", ["label", "cls", "class", "class_id"])
def test_a_label_may_be_in_a_json(tmp_path: Path, key: str) -> None:
    tar(tmp_path / "text" / "train-0.tar", {"1.webp": b"x", "1.json": said(width=3, **{key: "polar bear"})})
    assert ids(listed(tmp_path / "text")) == ["train/polar bear/1.webp"]
    members = {"1.jpg": b"x", "1.json": said(**{key: 1}), "2.json": said(**{key: 0}), "2.jpg": b"x"}
    tar(tmp_path / "numbers" / "train-0.tar", members)
    assert ids(listed(tmp_path / "numbers", NAMES)) == ["train/bee/1.jpg", "train/ape/2.jpg"]


def test_the_label_is_that_of_the_cls_or_the_likeliest_or_the_one_that_is_named(tmp_path: Path) -> None:
    both = said(class_id="n01440764", label=1, breed="a breed")
    tar(tmp_path / "train-0.tar", {"1.jpg": b"x", "1.cls": b"0", "1.json": both, "2.jpg": b"x", "2.json": both})
    assert ids(listed(tmp_path, NAMES)) == ["train/ape/1.jpg", "train/bee/2.jpg"]
    for column, class_id in (("class_id", "n01440764"), ("breed", "a breed")):
        found = listed(tmp_path, options=Options(label_column=column))
        assert ids(found) == [f"train/{class_id}/1.jpg", f"train/{class_id}/2.jpg"]
        assert found.notes == ()


def test_what_is_no_label_in_a_json_is_none(tmp_path: Path) -> None:
    texts = [
        b"[1]",
        b"[" * 100_000,
        b"no json",
        said(label=None),
        said(label=True),
        said(label=[3]),
        said(label=""),
        said(labels=3),
    ]
    members = {f"{n}.json": text for n, text in enumerate(texts)} | {f"{n}.jpg": b"x" for n in range(len(texts))}
    tar(tmp_path / "train-0.tar", members | {"a.jpg": b"x", "a.json": said(label=2.0)})
    found = listed(tmp_path, {"0": "x", "1": "y", "2": "z"})
    assert ids(found) == ["train/2/a.jpg"]
    (note,) = found.notes
    assert note.endswith(
        "8 images without a .cls are skipped; a .json there has label: data.label_column names the one to use"
    )


def test_a_split_without_labels_says_what_was_found(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"1.jpg": b"x", "1.json": said(species="ape", weight=3)})
    with pytest.raises(UserError) as caught:
        listed(tmp_path)
    assert str(caught.value).startswith(
        f"data: {tmp_path}: its tar files have no images with labels; {tmp_path}/train-0"
    )
    assert "1 images without a .cls are skipped; a .json there has species, weight: data.label_column" in str(
        caught.value
    )
    assert ids(listed(tmp_path, options=Options(label_column="species"))) == ["train/ape/1.jpg"]
    with pytest.raises(
        UserError, match=r"1 images without 'age' in a \.json are skipped; a \.json there has species, weight"
    ):
        listed(tmp_path, options=Options(label_column="age"))


def test_a_split_that_turns_out_empty_says_why(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"1.jpg": b"x", "1.cls": b"a"})
    tar(tmp_path / "val-0.tar", {"1.heic": b"x", "1.cls": b"a"})
    with pytest.raises(UserError, match=r"split 'val' has no images; .*val-0.*1 \.cls without an image .*: 1 \.heic$"):
        layouts.list_images("webdataset", str(tmp_path), ["train", "val"], None, None)


def test_archives_of_folders_are_told_from_shards(tmp_path: Path) -> None:
    tar(tmp_path / "one" / "train.tar", {"train/cat/1.jpg": b"x", "train/dog/1.jpg": b"x"})
    with pytest.raises(
        UserError, match=rf"; unpack train\.tar first: `cd {tmp_path}/one && tar -xf train\.tar -C \.`$"
    ):
        listed(tmp_path / "one")
    for name in ("cat", "dog"):
        tar(tmp_path / "many" / "train" / f"{name}.tar", {f"{n}.jpg": b"x" for n in range(3)})
    with pytest.raises(
        UserError, match=r"cat\.tar and 1 more shards: 6 images without .*it has 2 archives: unpack each"
    ):
        listed(tmp_path / "many")
    tar(tmp_path / "inner" / "train.tar", {"n01440764.tar": b"x", "n01443537.tar": b"x"})
    with pytest.raises(UserError, match=r"other files are skipped: 2 \.tar; unpack train\.tar first"):
        listed(tmp_path / "inner")


def test_an_ending_of_the_images_can_be_named(tmp_path: Path) -> None:
    members = {"1.jpg": b"photo", "1.seg.png": b"mask", "1.cls": b"a"}
    tar(tmp_path / "train-0.tar", members)
    assert ids(listed(tmp_path)) == ["train/a/1.jpg"]
    for ending, name, data in (("jpg", "1.jpg", b"photo"), (".seg.png", "1.seg.png", b"mask")):
        found = listed(tmp_path, options=Options(image_column=ending))
        assert ids(found) == [f"train/a/{name}"]
        assert reading.read_encoded(found.splits["train"]["uri"][0].as_py()) == data


def test_configurations_are_told_apart_as_those_of_parquet_files(tmp_path: Path) -> None:
    for folder in ("default/train", "default/val"):
        tar(tmp_path / folder / "0000.tar", {"1.jpg": b"x", "1.cls": b"a"})
    assert layouts.find(str(tmp_path), ["train", "val"]) == "webdataset"
    found = layouts.list_images("webdataset", str(tmp_path), ["train", "val"], None, None)
    assert {split: rows["image_id"].to_pylist() for split, rows in found.splits.items()} == {
        "train": ["train/a/1.jpg"],
        "val": ["val/a/1.jpg"],
    }


def test_folders_that_systems_leave_in_an_archive_are_passed_over_and_named(tmp_path: Path) -> None:
    for n in range(2):
        members = {f"{n}.jpg": b"x", f"{n}.cls": b"a", "__MACOSX/x/1.jpg": b"x", f"@eaDir/{n}.jpg/thumb.jpg": b"x"}
        tar(tmp_path / f"train-{n}.tar", members)
    found = listed(tmp_path)
    assert ids(found) == ["train/a/0.jpg", "train/a/1.jpg"]
    assert (found.skipped, found.notes) == (0, ("passed over, as systems leave them: __MACOSX, @eaDir",))


def test_of_several_images_of_a_sample_one_must_be_named(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"1.jpg": b"photo", "1.png": b"mask", "1.cls": b"a", "2.png": b"only", "2.cls": b"a"})
    with pytest.raises(
        UserError, match=r"train-0\.tar has \.jpg and \.png of the sample '1': .*image_column, such as jpg$"
    ):
        listed(tmp_path)
    found = listed(tmp_path, options=Options(image_column="jpg"))
    assert ids(found) == ["train/a/1.jpg"]
    assert [note.rpartition("/")[2] for note in found.notes] == [
        "train-0.tar: 1 .cls without an image are skipped",
        "other files are skipped: 2 .png",
    ]
    assert ids(listed(tmp_path, options=Options(image_column="PNG"))) == ["train/a/1.png", "train/a/2.png"]


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    members = {"1.jpg": b"x", "1.cls": mark + b"cat", "2.jpg": b"x", "2.cls": b"cat"}
    tar(tmp_path / "train-0.tar", members | {"3.jpg": b"x", "3.json": mark + said(label="cat")})
    assert ids(listed(tmp_path)) == [f"train/cat/{n}.jpg" for n in (1, 2, 3)]


def test_shards_that_all_count_from_0_get_ids_of_their_own(tmp_path: Path) -> None:
    for n in range(2):
        members = {f"{k:06d}.{end}": data for k in range(2) for end, data in (("jpg", b"%d%d" % (n, k)), ("cls", b"a"))}
        tar(tmp_path / f"train-{n}.tar", members)
    tar(tmp_path / "val-0.tar", {"000000.jpg": b"x", "000000.cls": b"a"})
    found = layouts.list_images("webdataset", str(tmp_path), ["train", "val"], None, None)
    rows = found.splits["train"].to_pylist()
    assert {row["image_id"]: reading.read_encoded(row["uri"]) for row in rows} == {
        "train/a/train-0-0": b"00",
        "train/a/train-0-1": b"01",
        "train/a/train-1-0": b"10",
        "train/a/train-1-1": b"11",
    }
    assert found.splits["val"]["image_id"].to_pylist() == ["val/a/000000.jpg"]
    assert found.notes == ("images of train have the same names: their ids are their files and places in them instead",)


def test_shards_as_timm_publishes_imagenet(tmp_path: Path) -> None:
    """`imagenet1k-train-0000.tar` with a number in `.cls` and all else in `.json`; `_info.json` beside them."""
    for split, count in (("train", 2), ("validation", 1)):
        for n in range(count):
            members: dict[str, bytes] = {}
            for label, wnid in ((0, "n01440764"), (1, "n01443537")):
                key, about = (
                    f"{wnid}_{n}",
                    said(label=label, class_id=wnid, filename=f"{wnid}/{wnid}_{n}.JPEG", width=5),
                )
                members |= {f"{key}.cls": b"%d" % label, f"{key}.jpg": b"x", f"{key}.json": about}
            tar(tmp_path / f"imagenet1k-{split}-{n:04d}.tar", members)
    put(tmp_path / "_info.json", "{}")
    put(tmp_path / "README.md", "")
    splits = ["train", "validation"]
    assert layouts.find(str(tmp_path), splits) == "webdataset"
    found = layouts.list_images("webdataset", str(tmp_path), splits, {"n01440764": "tench", "n01443537": "fish"}, None)
    assert found.splits["train"]["image_id"].to_pylist() == [
        f"train/{wnid}/{wnid}_{n}.jpg" for n in range(2) for wnid in ("n01440764", "n01443537")
    ]
    assert found.splits["validation"]["class_text"].to_pylist() == ["tench", "fish"]
    assert (found.skipped, found.notes) == (0, ())


def test_shards_as_img2dataset_writes_them(tmp_path: Path) -> None:
    """Flat `00000.tar` of image, caption and `.json`, with a `.parquet` of what is not an image beside each."""
    for n in range(2):
        about = {"caption": "a cat", "url": "u", "key": f"{n:05d}0000", "status": "success", "breed": "tabby"}
        members = {f"{n:05d}0000.jpg": b"x", f"{n:05d}0000.txt": b"a cat", f"{n:05d}0000.json": said(**about)}
        tar(tmp_path / "pets" / f"{n:05d}.tar", members)
        pq.write_table(pa.table({"url": ["u"], "key": ["k"]}), tmp_path / "pets" / f"{n:05d}.parquet")
        put(tmp_path / "pets" / f"{n:05d}_stats.json", "{}")
    with pytest.raises(UserError, match=rf"set data\.root={tmp_path} data\.train=pets data\.val=null$"):
        layouts.list_images(
            layouts.find(str(tmp_path / "pets"), ["train"]), str(tmp_path / "pets"), ["train"], None, None
        )
    assert layouts.find(str(tmp_path), ["pets"]) == "webdataset"
    found = layouts.list_images("webdataset", str(tmp_path), ["pets"], None, None, Options(label_column="breed"))
    assert found.splits["pets"]["image_id"].to_pylist() == [f"pets/tabby/{n:05d}0000.jpg" for n in range(2)]
    assert found.notes == ("other files are skipped: 2 .txt",)
