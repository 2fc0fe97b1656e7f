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


def parquet(root: Path, *names: str) -> str:
    for name in names:
        put(root / f"{name}.parquet", "")
    return str(root)


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "train-00001-of-00003.parquet of the 3 files of the split"),
        (["data/train-00003-of-00004"], "train-00000-of-00004.parquet and 2 more of the 4 files"),
        (["train-00001-of-00003", "train-00003-of-00003"], "train-00002-of-00003.parquet of the 3"),
        (["train/part-0-of-2"], "part-1-of-2.parquet of the 2"),
        (["train/00001-of-00002"], "00000-of-00002.parquet of the 2"),
        (["train_0_of_2"], "train_1_of_2.parquet of the 2"),
        (["train-00000-of-00002-a09b74b3ef9c3b56"], "train-00001-of-00002.parquet of the 2"),
    ],
)
def test_a_file_that_the_names_of_the_others_count_is_missed(tmp_path: Path, names: list[str], lacking: str) -> None:
    root = parquet(tmp_path, *names, "val-00000-of-00001")
    with pytest.raises(UserError) as caught:
        containers.of_splits(root, ".parquet", ["train", "val"])
    assert str(caught.value).startswith(f"data: {root} lacks {lacking}")
    assert "'train': fetch what is missing" in str(caught.value)
    assert list(containers.of_splits(root, ".parquet", ["val"])) == ["val"], "only what is wanted must be whole"


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002", "train-00001-of-00002"],
        ["train-00001-of-00002", "train-00002-of-00002"],
        ["train/a-0-of-2", "train/a-1-of-2", "train/b-0-of-1", "train/c"],
        ["train-0-of-1-0abc", "test-0-of-2"],
    ],
)
def test_a_split_that_is_whole_is_taken(tmp_path: Path, names: list[str]) -> None:
    found = containers.of_splits(parquet(tmp_path, *names), ".parquet", ["train"])
    assert found == {"train": [f"{name}.parquet" for name in names if name.startswith("train")]}
    assert containers.notes(found) == ()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (["0000", "0002"], "numbered up to 2, but 1 are not"),
        (["0001", "0004"], "numbered up to 4, but 2 and 1 more are not"),
        (["0002", "0003"], "numbered up to 3, but 0 and 1 more are not"),
        (["0005"], "numbered up to 5, but 0 and 4 more are not"),
        (["0000", "0001"], None),
        (["1", "2"], None),
        (["2017"], None),
        (["20240101", "20250101"], None),
    ],
)
def test_numbers_that_are_left_out_are_warned_of(tmp_path: Path, numbers: list[str], said: str | None) -> None:
    for number in numbers:
        put(tmp_path / f"train-{number}.tar", "")
    notes = containers.notes(containers.of_splits(str(tmp_path), ".tar", ["train"]))
    assert len(notes) == (said is not None)
    if said:
        assert notes[0].startswith(f"warning: the files of the split 'train' are {said}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["data/train-00000-of-00001", "train/0000"],
            "in 2 places, data/train-0.* and train/0.*: set data.root={}/data, ",
        ),
        (
            ["data/train-00000-of-00001", "train"],
            "in 2 places, train.parquet and data/train-0.*: set data.root={}/data, ",
        ),
        (
            ["train", "train/0000"],
            "in 2 places, train.parquet and train/0000.parquet, which could be copies: leave one",
        ),
        (["data/train", "data/train/0"], "in 2 places, data/train.parquet and data/train/0.parquet"),
        (
            ["full/train", "full/train/0"],
            "in 2 places, full/train.parquet and full/train/0.parquet.*data.root={}/full, ",
        ),
        (["train-0-of-1-b42a", "train-0-of-1"], "train-0-of-1-b42a.parquet and train-0-of-1.parquet are of different"),
        (["data/train-0-of-1-b42a", "data/train-0-of-1-c0de"], "are of different copies of the split 'train'"),
        (["train-0-of-1", "train-0-of-2", "train-1-of-2"], "train-0-of-1.parquet and train-0-of-2.parquet are of"),
        (["train", "train-0-of-1"], "are of different copies"),
        (["train", "train-0", "train-1"], "are of different copies"),
        (["train/0000", "train/train-00000-of-00001"], "are of different copies"),
    ],
)
def test_copies_of_a_split_are_not_put_together(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.format(tmp_path).replace(".parquet", r"\.parquet")):
        containers.of_splits(parquet(tmp_path, *names), ".parquet", ["train"])


def test_shards_that_are_only_numbered_are_told_how_to_be_read(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path / "cc3m" / f"{number:05d}.tar", "")
    with pytest.raises(UserError) as caught:
        containers.of_splits(str(tmp_path / "cc3m"), ".tar", ["train", "val"])
    assert str(caught.value).endswith(
        "00008, 00009 and 20 more: if these are the files of one split, "
        f"set data.root={tmp_path} data.train=cc3m data.val=null"
    )
    assert len(containers.of_splits(str(tmp_path), ".tar", ["cc3m"])["cc3m"]) == 30


@pytest.mark.parametrize(
    ("names", "splits", "expected"),
    [
        (["train2017", "val2017"], ["train2017", "val2017"], [["train2017"], ["val2017"]]),
        (["train2017-0", "train2017-1"], ["train2017"], [["train2017-0", "train2017-1"]]),
        (["coco-train2017-00"], ["train2017"], [["coco-train2017-00"]]),
        (["fold1", "fold2", "fold3", "fold10"], ["fold1", "fold2"], [["fold1"], ["fold2"]]),
        (["fold1-0-of-1", "fold10-0-of-1"], ["fold10"], [["fold10-0-of-1"]]),
        (["train0", "train1"], ["train"], [["train0", "train1"]]),
    ],
)
def test_a_split_that_is_wanted_keeps_its_number(
    tmp_path: Path, names: list[str], splits: list[str], expected: list[list[str]]
) -> None:
    found = containers.of_splits(parquet(tmp_path, *names), ".parquet", splits)
    assert list(found.values()) == [[f"{name}.parquet" for name in each] for each in expected]


def test_the_last_word_is_a_word(tmp_path: Path) -> None:
    root = parquet(tmp_path, "untrain-0", "retrain", "a/constrain/0")
    with pytest.raises(UserError, match=r"has no split 'train'; it has retrain, untrain"):
        containers.of_splits(root, ".parquet", ["train"])
    parquet(tmp_path, "data/some.train-0")
    assert containers.of_splits(root, ".parquet", ["train"]) == {"train": ["data/some.train-0.parquet"]}


def test_data_is_no_configuration_and_inner_folders_count_if_they_are_splits(tmp_path: Path) -> None:
    root = parquet(tmp_path, "data/train/0", "other/train/0", "data/raw/0", "data/train/deep/1")
    assert containers.of_splits(root, ".parquet", ["train"]) == {"train": ["data/train/0.parquet"]}
    assert set(containers.found(root, ".parquet")) == {"train"}


def test_a_shard_whose_link_leads_nowhere_is_not_left_out(tmp_path: Path) -> None:
    put(tmp_path / "train-0.tar", "")
    (tmp_path / "train-1.tar").symlink_to(tmp_path / "gone")
    assert containers.of_splits(str(tmp_path), ".tar", ["train"]) == {"train": ["train-0.tar", "train-1.tar"]}
