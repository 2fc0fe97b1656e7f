"""Which split a file is of."""

from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import containers
from tests.sources.datasets import put


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00294.parquet", "train"),
        ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", "train"),
        ("train/0000.parquet", "train"),
        ("train.parquet", "train"),
        ("imagenet1k-train-0000.parquet", "imagenet1k-train"),
        ("train_007.parquet", "train"),
        ("train7.parquet", "train"),
        ("cifar10-test-00.parquet", "cifar10-test"),
        ("0001.parquet", "0001"),
        ("plain_text/train-00000-of-00001.parquet", "train"),
        ("default/train/0000.parquet", "train"),
        ("default/partial-train/0000.parquet", "partial-train"),
        ("data/train/part-0.parquet", "train"),
        ("cifar10/cifar10-train.parquet", "cifar10-train"),
        ("train/imagenet-train-0.parquet", "train"),
        ("images/0000.parquet", "images"),
    ],
)
def test_a_split_is_the_beginning_of_the_name_or_the_folder(tmp_path: Path, path: str, split: str) -> None:
    put(tmp_path / path, "")
    put(tmp_path / "README.md", "")
    assert containers.found(str(tmp_path), ".parquet") == {split: [path]}


def test_the_last_word_is_enough_unless_two_have_it(tmp_path: Path) -> None:
    for name in ("a-train-0.tar", "a-train-1.tar", "a-val-0.tar", "b-val-0.tar"):
        put(tmp_path / name, "")
    assert containers.of_splits(str(tmp_path), ".tar", ["train", "b-val"]) == {
        "train": ["a-train-0.tar", "a-train-1.tar"],
        "b-val": ["b-val-0.tar"],
    }
    for split, said in (("val", "more than one"), ("validation", "no")):
        with pytest.raises(UserError, match=rf"has {said} split '{split}'; it has a-train, a-val, b-val"):
            containers.of_splits(str(tmp_path), ".tar", ["train", split])


def test_a_configuration_that_alone_has_the_splits_is_taken(tmp_path: Path) -> None:
    for name in ("plain_text/train-00000-of-00001", "plain_text/test-00000-of-00001", "other/extra-0"):
        put(tmp_path / f"{name}.parquet", "")
    assert containers.of_splits(str(tmp_path), ".parquet", ["train", "test"]) == {
        "train": ["plain_text/train-00000-of-00001.parquet"],
        "test": ["plain_text/test-00000-of-00001.parquet"],
    }
    with pytest.raises(UserError, match=r"has no split 'val'; it has other, test, train: set data\.val=test"):
        containers.of_splits(str(tmp_path), ".parquet", ["train", "val"])


def test_the_hubs_own_conversion_is_read(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        put(tmp_path / "default" / split / "0000.parquet", "")
        put(tmp_path / "default" / split / "0001.parquet", "")
    assert containers.of_splits(str(tmp_path), ".parquet", ["train", "validation"]) == {
        split: [f"default/{split}/0000.parquet", f"default/{split}/0001.parquet"] for split in ("train", "validation")
    }


def test_of_several_configurations_one_must_be_named(tmp_path: Path) -> None:
    for name in ("full/train/0.tar", "full/val/0.tar", "small/train-0.tar", "small/val-0.tar"):
        put(tmp_path / name, "")
    with pytest.raises(UserError, match=rf"with the split 'train', full, small: set data\.root .* as {tmp_path}/full$"):
        containers.of_splits(str(tmp_path), ".tar", ["train", "val"])
    assert containers.of_splits(str(tmp_path / "small"), ".tar", ["train"]) == {"train": ["train-0.tar"]}
    put(tmp_path / "train-0.tar", "")
    assert containers.of_splits(str(tmp_path), ".tar", ["train"]) == {"train": ["train-0.tar"]}, "the root's own first"


def test_a_split_of_the_users_own_name_is_found_at_each_level(tmp_path: Path) -> None:
    for name in ("a/labelled/0.tar", "labelled2/0.tar", "a/unlabelled/0.tar"):
        put(tmp_path / name, "")
    assert containers.of_splits(str(tmp_path), ".tar", ["labelled"]) == {"labelled": ["a/labelled/0.tar"]}


def test_a_part_of_a_data_set_is_said(tmp_path: Path) -> None:
    assert containers.notes({"train": ["default/train/0.parquet"]}) == ()
    (note,) = containers.notes({"train": ["default/partial-train/0.parquet"]})
    assert note == "warning: default/partial-train holds only the first part of the data set, as the Hub made it"
