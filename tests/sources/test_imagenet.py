"""ILSVRC's flat validation folder gets its classes from a file, in each of the forms that it comes in, and no guess."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ddps_ray.errors import UserError
from ddps_ray.sources import imagenet, layouts
from tests.sources.datasets import put

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"
SPLITS = ["train", "val"]
VAL = [f"ILSVRC2012_val_{n:08d}.JPEG" for n in (1, 2, 3)]
RIGHT = {VAL[0]: GOLDFISH, VAL[1]: TENCH, VAL[2]: GOLDFISH}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for class_id in (TENCH, GOLDFISH, SHARK):
        put(tmp_path / "train" / class_id / f"{class_id}_1.JPEG", "")
    for name in VAL:
        put(tmp_path / "val" / name, "")
    return tmp_path


def owners(root: Path, ground_truth: Path | None = None) -> dict[str, str]:
    found = imagenet.list_images(str(root), SPLITS, None, str(ground_truth) if ground_truth else None)
    rows = found.splits["val"].to_pylist()
    assert [row["image_id"] for row in rows] == sorted(f"val/{row['class_id']}/{Path(row['uri']).name}" for row in rows)
    return {Path(row["uri"]).name: row["class_id"] for row in rows}


def devkit(root: Path) -> Path:
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    synsets = np.array([(1, SHARK, "shark"), (2, GOLDFISH, "goldfish"), (3, TENCH, "tench")], kind).reshape(-1, 1)
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "meta.mat", {"synsets": synsets})
    put(root / "devkit" / "ILSVRC2012_validation_ground_truth.txt", "2\n3\n2\n")
    return root / "devkit" / "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    "text",
    [
        "ImageId,PredictionString\n" + "".join(f"{name[:-5]},{c} 1 2 3 4 {c} 5 6 7 8\n" for name, c in RIGHT.items()),
        "".join(f"{name} {c}\n" for name, c in reversed(RIGHT.items())),
        "".join(f"{name},{c}\r\n" for name, c in RIGHT.items()),
        "\n".join(RIGHT.values()) + "\n\n",
    ],
)
def test_each_form_of_the_file_says_the_same(root: Path, text: str) -> None:
    assert layouts.find(str(root), SPLITS) == "imagenet"
    put(root / "truth", text)
    assert owners(root, root / "truth") == RIGHT
    put(root / "LOC_val_solution.csv", text)
    assert owners(root) == RIGHT, "found by its usual name"


def test_the_devkits_numbers_are_its_own_and_need_its_table(root: Path) -> None:
    table = devkit(root)
    assert owners(root, table) == RIGHT, "2 is not the second wnid"
    (table.parent / "meta.mat").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"meta\.mat is not the development kit's table of synsets"):
        owners(root, table)
    (table.parent / "meta.mat").unlink()
    with pytest.raises(UserError, match=r"has numbers, which only the development kit's meta\.mat beside it explains"):
        owners(root, table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("".join(f"{name} {n}\n" for n, name in enumerate(VAL)), "has '0', which is no WordNet id"),
        (f"{TENCH}\n{TENCH}\n", "has 2 lines for 3 images"),
        (f"{TENCH}\n{TENCH}\ntench\n", "line 3: 'tench' is no WordNet id"),
        (f"{TENCH}\n{TENCH}\nn09999999\n", "is of class n09999999, which the training split lacks"),
        (f"{VAL[0]} {TENCH}\n{VAL[1]} {TENCH}\n", f"has no line for {VAL[2]}"),
        (f"{VAL[0]} {TENCH}\nother.JPEG {TENCH}\n", "has other.JPEG, which is not among the images"),
        (f"{VAL[0]} {TENCH}\n{VAL[0]} {SHARK}\n", f"has two classes for {VAL[0]}"),
        ("", "has 0 lines for 3 images"),
    ],
)
def test_a_file_that_does_not_belong_to_the_images_is_refused(root: Path, text: str, said: str) -> None:
    put(root / "truth.txt", text)
    with pytest.raises(UserError, match=said) as caught:
        owners(root, root / "truth.txt")
    assert str(caught.value).startswith(f"data.ground_truth: {root / 'truth.txt'}")


def test_without_a_file_the_setting_is_named(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"^data\.ground_truth: .*val has no class folders, and .*LOC_val_solution\.csv"
    ):
        owners(root)
    with pytest.raises(UserError, match=r"^data\.ground_truth: .*absent cannot be read"):
        owners(root, root / "absent")


def test_a_validation_split_with_class_folders_needs_none(root: Path) -> None:
    put(root / "val2" / TENCH / "x.JPEG", "")
    found = imagenet.list_images(str(root), ["train", "val2"])
    assert found.splits["val2"]["image_id"].to_pylist() == [f"val2/{TENCH}/x.JPEG"]
    assert found.class_texts == {TENCH: "tench", GOLDFISH: "goldfish", SHARK: "great white shark"}
