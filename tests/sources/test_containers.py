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
