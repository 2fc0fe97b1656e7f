"""Tiny ImageNet: names from its own table, boxes kept, and what does not fit named."""

from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import layouts, tiny_imagenet
from tests.sources.datasets import put

SPLITS = ["train", "val"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "wnids.txt", "n2\nn1\n")
    put(tmp_path / "words.txt", "n1\tegret, white bird\nn2\t \nn3\tother\n")
    for class_id in ("n1", "n2"):
        put(tmp_path / "train" / class_id / "images" / f"{class_id}_0.JPEG", "")
        put(tmp_path / "train" / class_id / f"{class_id}_boxes.txt", f"{class_id}_0.JPEG\t0\t10\t63\t58\n")
    put(tmp_path / "val" / "images" / "val_0.JPEG", "")
    put(tmp_path / "val" / "images" / "val_1.JPEG", "")
    put(tmp_path / "val" / "val_annotations.txt", "val_0.JPEG\tn2\t1\t2\t3\t4\nval_1.JPEG\tn1\t9\t9\t5\t5\n")
    put(tmp_path / "test" / "images" / "test_0.JPEG", "")
    return tmp_path


def test_ids_names_and_boxes(root: Path) -> None:
    assert layouts.find(str(root), SPLITS) == "tiny-imagenet"
    found = tiny_imagenet.list_images(str(root), SPLITS)
    assert found.splits["train"]["image_id"].to_pylist() == ["train/n1/n1_0.JPEG", "train/n2/n2_0.JPEG"]
    assert found.splits["val"]["image_id"].to_pylist() == ["val/n1/val_1.JPEG", "val/n2/val_0.JPEG"]
    assert found.class_texts == {"n1": "egret", "n2": "n2"}
    assert found.boxes is not None
    assert [tuple(row.values()) for row in found.boxes.to_pylist()] == [
        ("train/n1/n1_0.JPEG", 0, 10, 64, 59),
        ("train/n2/n2_0.JPEG", 0, 10, 64, 59),
        ("val/n2/val_0.JPEG", 1, 2, 4, 5),  # the other one's is inside out
    ]
    named = tiny_imagenet.list_images(str(root), SPLITS, {"n1": "heron", "n2": "crane"})
    assert named.class_texts == {"n1": "heron", "n2": "crane"}


def test_what_does_not_fit_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"split 'test' has no labels: there is no .*val_annotations\.txt"):
        tiny_imagenet.list_images(str(root), ["train", "test"])
    put(root / "val" / "images" / "val_2.JPEG", "")
    with pytest.raises(UserError, match=r"val_annotations\.txt has no line for val_2\.JPEG"):
        tiny_imagenet.list_images(str(root), SPLITS)
    put(root / "val" / "val_annotations.txt", "val_0.JPEG\tn7\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 1: class 'n7' is not in the training split"):
        tiny_imagenet.list_images(str(root), SPLITS)
    put(root / "train" / "n1" / "n1_boxes.txt", "n1_0.JPEG\t0\tx\t63\t58\n")
    with pytest.raises(UserError, match=r"n1_boxes\.txt, line 1: the sides of a box are not four whole numbers"):
        tiny_imagenet.list_images(str(root), ["train"])


@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("left", [True, False])
def test_a_validation_split_that_was_sorted_into_classes_is_the_same(root: Path, inner: str, left: bool) -> None:
    flat = tiny_imagenet.list_images(str(root), SPLITS)
    for name, class_id in (("val_0.JPEG", "n2"), ("val_1.JPEG", "n1")):
        target = root / "val" / class_id / f"{inner}{name}"
        target.parent.mkdir(parents=True)
        (root / "val" / "images" / name).rename(target)
    if not left:
        (root / "val" / "images").rmdir()
    found = tiny_imagenet.list_images(str(root), SPLITS)
    for split in SPLITS:
        assert found.splits[split].drop_columns("uri").equals(flat.splits[split].drop_columns("uri"))
    assert found.boxes == flat.boxes
    assert (found.skipped, found.notes) == (0, ())
    assert all(Path(uri).is_file() for uri in found.splits["val"]["uri"].to_pylist())


def test_a_sorted_split_needs_no_table_and_half_of_one_is_refused(root: Path) -> None:
    put(root / "val" / "n2" / "val_0.JPEG", "")
    with pytest.raises(UserError, match="val has images in images and class folders, too: sort all of them, or none"):
        tiny_imagenet.list_images(str(root), SPLITS)
    for name in ("images/val_0.JPEG", "images/val_1.JPEG", "val_annotations.txt"):
        (root / "val" / name).unlink()
    found = tiny_imagenet.list_images(str(root), SPLITS)
    assert found.splits["val"]["image_id"].to_pylist() == ["val/n2/val_0.JPEG"]
