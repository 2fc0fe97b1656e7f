"""Archives where a data set should be: the command that is advised unpacks them to what is then read."""

import subprocess
from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import archives, layouts
from tests.sources.datasets import put, tar

SPLITS = ["train", "val"]
WNIDS = ("n01440764", "n01443537")


def refused(root: Path) -> str:
    """What is said of a root that cannot be listed."""
    with pytest.raises(UserError) as caught:
        layouts.list_images(layouts.find(str(root), SPLITS), str(root), SPLITS, None, None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def obeyed(root: Path) -> str:
    """Does what the error says, and returns it."""
    said = refused(root)
    subprocess.run(["bash", "-ec", said.split("`")[1]], check=True)
    return said


def ilsvrc(root: Path) -> None:
    """ImageNet as it is given away: a tar of tars, and one of images."""
    for wnid in WNIDS:
        tar(root / "made" / f"{wnid}.tar", {f"{wnid}_1.JPEG": b"x"})
    tar(
        root / "ILSVRC2012_img_train.tar",
        {f"{wnid}.tar": (root / "made" / f"{wnid}.tar").read_bytes() for wnid in WNIDS},
    )
    tar(root / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000001.JPEG": b"x"})
    for wnid in WNIDS:
        (root / "made" / f"{wnid}.tar").unlink()
    (root / "made").rmdir()
    put(root / "LOC_val_solution.csv", f"ILSVRC2012_val_00000001,{WNIDS[0]}\n")


def test_imagenets_archives_are_unpacked_step_by_step(tmp_path: Path) -> None:
    root = tmp_path / "with blank"
    ilsvrc(root)
    assert "unpack ILSVRC2012_img_train.tar first" in obeyed(root)
    assert "has no folder 'val'; it has train; unpack ILSVRC2012_img_val.tar first" in obeyed(root)
    said = obeyed(root)
    assert f"{root}/train has no class folders; it has 2 archives: unpack each into a folder of its own" in said
    assert layouts.find(str(root), SPLITS) == "imagenet"
    found = layouts.list_images("imagenet", str(root), SPLITS, None, None)
    assert {split: rows["image_id"].to_pylist() for split, rows in found.splits.items()} == {
        "train": [f"train/{wnid}/{wnid}_1.JPEG" for wnid in WNIDS],
        "val": [f"val/{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG"],
    }


def test_archives_in_a_split_beside_a_split_that_is_there(tmp_path: Path) -> None:
    for wnid in WNIDS:
        tar(tmp_path / "train" / f"{wnid}.tar", {f"{wnid}_1.JPEG": b"x"})
    put(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", "")
    said = refused(tmp_path)
    assert "no split" not in said
    assert said.startswith(f"data: {tmp_path}/train has no class folders; it has 2 archives: unpack each")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("train.zip", "unzip -q train.zip -d ."),
        ("images.tar.gz", "tar -xf images.tar.gz -C ."),
        ("data set.tgz", "tar -xf 'data set.tgz' -C ."),
        ("CUB_200_2011.TGZ", "tar -xf CUB_200_2011.TGZ -C ."),
    ],
)
def test_an_archive_in_the_root_is_named_with_what_unpacks_it(tmp_path: Path, name: str, command: str) -> None:
    put(tmp_path / name, "x")
    said = refused(tmp_path)
    assert "has no data set of a known layout" in said
    assert said.endswith(f"; unpack {name} first: `cd {tmp_path} && {command}`")


def test_shards_that_are_compressed_are_told_from_archives(tmp_path: Path) -> None:
    put(tmp_path / "train-0000.tar.gz", "x")
    assert "train-0000.tar.gz is packed: unpack it, or `gunzip` it where it is a WebDataset shard" in refused(tmp_path)


def test_the_archive_of_the_split_that_is_missing_is_meant(tmp_path: Path) -> None:
    put(tmp_path / "train" / "cat" / "1.jpg", "")
    put(tmp_path / "test" / "cat" / "1.jpg", "")
    put(tmp_path / "train.zip", "")
    assert refused(tmp_path).endswith("it has test, train: set data.val=test")
    put(tmp_path / "val.zip", "")
    assert refused(tmp_path).endswith(f"; unpack val.zip first: `cd {tmp_path} && unzip -q val.zip -d .`")


def test_in_a_store_there_is_no_command() -> None:
    said = archives.advice("s3://bucket/data", ["train.zip"])
    assert said == "; train.zip is an archive, which is not read: unpack it and put there what is in it"
    assert archives.advice("/data", ["train.jpg", "tar", "zip.txt"]) == ""


def test_archives_are_told_by_their_endings(tmp_path: Path) -> None:
    kinds = ["tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst", "zip", "7z", "rar", "TAR"]
    assert [archives.stem(f"x.y.{kind}") for kind in kinds] == ["x.y"] * len(kinds)
    assert not any(map(archives.is_archive, ["x.txt", "x.tif", "x.gz", "x.tar-0", ".zip", "tar"]))
    put(tmp_path / "a.7z", "x")
    assert refused(tmp_path).endswith("; unpack a.7z first"), "by another program than the two that everyone has"


def test_archives_of_splits_unpack_side_by_side_and_stay(tmp_path: Path) -> None:
    for split in SPLITS:
        tar(tmp_path / f"{split}.tar", {f"{split}/{name}/1.jpg": b"x" for name in ("cat", "dog")})
    assert "; unpack train.tar and 1 more first: `" in obeyed(tmp_path)
    assert layouts.find(str(tmp_path), SPLITS) == "imagefolder"
    found = layouts.list_images("imagefolder", str(tmp_path), SPLITS, None, None)
    assert found.splits["val"]["image_id"].to_pylist() == ["val/cat/1.jpg", "val/dog/1.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {"train", "val", "train.tar", "val.tar"}


@pytest.mark.parametrize("inner", [["", ""], ["train/", ""], ["", "val/"]])
def test_archives_of_splits_without_a_folder_of_the_split_get_one(tmp_path: Path, inner: list[str]) -> None:
    for split, folder in zip(SPLITS, inner, strict=True):
        tar(tmp_path / f"{split}.tar", {f"{folder}{name}/1.jpg": b"x" for name in ("cat", "dog")})
    obeyed(tmp_path)
    found = layouts.list_images(layouts.find(str(tmp_path), SPLITS), str(tmp_path), SPLITS, None, None)
    assert [rows["image_id"].to_pylist() for rows in found.splits.values()] == [
        [f"{split}/cat/1.jpg", f"{split}/dog/1.jpg"] for split in SPLITS
    ]


def test_archives_that_have_their_own_folder_get_no_other(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        tar(tmp_path / "train" / f"{name}.tar", {f"./{name}/1.jpg": b"x"})
    with pytest.raises(UserError) as caught:
        layouts.list_images("webdataset", str(tmp_path), ["train"], None, None)
    subprocess.run(["bash", "-ec", str(caught.value).split("`")[1]], check=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")) == [
        "train/cat/1.jpg",
        "train/dog/1.jpg",
    ]
