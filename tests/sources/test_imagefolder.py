"""From a folder of folders to manifest rows, and every way in which the folder can be wrong."""

import os
from pathlib import Path

import pytest

from ddps_ray import schemas, storage
from ddps_ray.errors import UserError
from ddps_ray.sources import imagefolder

SPLITS = ["train", "val"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_images_of_all_depths_and_spellings_are_listed_class_by_class(tmp_path: Path) -> None:
    images = [
        "a.JPEG",
        "b.jpg",
        "c.Png",
        "d.webp",
        "e.bmp",
        "f.gif",
        "g.tif",
        "h.TIFF",
        "sub/er/i.jpeg",
        "text inside.jpg",
    ]
    touch(tmp_path, *(f"train/zebra/{name}" for name in images), "train/ape/1.png", "val/zebra/0.png")
    touch(
        tmp_path, "train/README.txt", "train/loose.png", "train/zebra/sub/notes.md", "val/zebra/a.jpg.bak", "boxes.csv"
    )
    touch(
        tmp_path,
        "train/zebra/.hidden.png",
        "train/.cache/x.png",
        "train/zebra/.git/x.png",
        ".DS_Store",
        "other/y/z.png",
    )
    listing = imagefolder.list_images(str(tmp_path), SPLITS)
    train, val = listing.splits["train"], listing.splits["val"]
    schemas.check(train, schemas.MANIFEST)
    assert train["image_id"].to_pylist() == ["train/ape/1.png", *(f"train/zebra/{name}" for name in sorted(images))]
    assert train["uri"].to_pylist() == [str(tmp_path / name) for name in train["image_id"].to_pylist()]
    assert train["label"].to_pylist() == [0] + [1] * len(images)
    assert set(train["split"].to_pylist()) == {"train"}
    assert val.to_pylist() == [
        {
            "image_id": "val/zebra/0.png",
            "uri": str(tmp_path / "val/zebra/0.png"),
            "class_id": "zebra",
            "class_text": "zebra",
            "label": 1,  # as in train, though it is the only class here
            "split": "val",
        }
    ]
    assert listing.class_texts == {"ape": "ape", "zebra": "zebra"}
    assert listing.skipped == 4  # README.txt, loose.png, notes.md, a.jpg.bak


def test_a_uri_lists_the_same_ids_and_its_rows_can_be_opened(tmp_path: Path) -> None:
    touch(tmp_path, "train/a class/50% #1?.png", "train/b/ü.png")
    by_path = imagefolder.list_images(str(tmp_path), ["train"]).splits["train"]
    by_uri = imagefolder.list_images(tmp_path.as_uri() + "/", ["train"]).splits["train"]
    assert by_uri.drop_columns("uri").equals(by_path.drop_columns("uri"))
    for path, uri in zip(by_path["uri"].to_pylist(), by_uri["uri"].to_pylist(), strict=True):
        assert uri.startswith("file:///")
        assert storage.open_uri(uri)[1] == path
        assert storage.read_bytes(uri) == b""


def test_the_users_names_reach_the_rows(tmp_path: Path) -> None:
    touch(tmp_path, "train/x1/0.png")
    rows = imagefolder.list_images(str(tmp_path), ["train"], {"x1": "fire engine"}).splits["train"]
    assert rows["class_text"].to_pylist() == ["fire engine"]


def test_a_linked_split_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/a/0.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(tmp_path / "disk")
    rows = imagefolder.list_images(str(tmp_path / "root"), ["train"]).splits["train"]
    assert rows["uri"].to_pylist() == [str(tmp_path / "root/train/a/0.png")]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["x.png"], "has no folder 'train'; it has none at all"),
        (["training/a/0.png", "val/a/0.png"], "has no folder 'train'; it has training, val"),
        (["train/a/0.png"], "has no folder 'val'; it has train"),
        (["train/0.png", "val/a/0.png"], "/train has no class folders"),
        (["train/a/0.png", "train/b/notes.txt", "val/a/0.png"], "/train/b has no images"),
        (["train/a/0.png", "val/a/0.png", "val/b/0.png"], "/val/b is of a class that the training split does not have"),
    ],
)
def test_a_folder_that_is_wrong_is_named(tmp_path: Path, files: list[str], said: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError) as caught:
        imagefolder.list_images(str(tmp_path), SPLITS)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_root_that_is_not_there_empty_or_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "file")
    for name, said in [("absent", "does not exist"), ("empty", "it has none at all"), ("file", "cannot be listed")]:
        with pytest.raises(UserError, match=said) as caught:
            imagefolder.list_images(str(tmp_path / name), SPLITS)
        assert str(tmp_path / name) in str(caught.value)


def test_a_file_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/0.png")
    with open(os.fsencode(tmp_path) + b"/train/a/caf\xe9.png", "wb"):  # noqa: PTH123 - pathlib has no bytes
        pass
    with pytest.raises(UserError, match=r"train/a has a file whose name is not UTF-8: .*caf\\xe9"):
        imagefolder.list_images(str(tmp_path), ["train"])
