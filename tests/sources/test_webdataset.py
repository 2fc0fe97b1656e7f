"""Tar shards: images and labels find each other, nothing climbs out, and damage is said instead of hidden."""

from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import reading, webdataset
from ddps_ray.sources.listing import Listing
from tests.sources.datasets import put, tar

NAMES = {"ape": "an ape", "bee": "a bee"}


def listed(root: Path, names: dict[str, str] | None = None) -> Listing:
    return webdataset.list_images(str(root), ["train"], names)


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
