"""CIFAR's binary files: planes become the picture they were, a label its name."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddps_ray.errors import UserError
from ddps_ray.sources import layouts, reading
from ddps_ray.sources.cifar import CIFAR10, CIFAR100
from tests.sources.datasets import put

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def records(labels: list[bytes]) -> bytes:
    return b"".join(label + pixels.transpose(2, 0, 1).tobytes() for label, pixels in zip(labels, PIXELS, strict=False))


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    for n in range(1, 6):
        put(tmp_path / f"data_batch_{n}.bin", records([b"\x01", b"\x00"]))
    put(tmp_path / "test_batch.bin", records([b"\x00"]))
    put(tmp_path / "batches.meta.txt", "airplane\nautomobile\nbird\n\n")
    return tmp_path


def test_cifar_10_is_listed_in_the_order_of_its_files(ten: Path) -> None:
    assert layouts.find(str(ten), ["train"]) == "cifar10"
    found = layouts.list_images("cifar10", str(ten), ["train", "test"], None, None)
    rows = found.splits["train"].to_pylist()
    assert [row["image_id"] for row in rows[:3]] == [
        "train/automobile/data_batch_1-00000",
        "train/airplane/data_batch_1-00001",
        "train/automobile/data_batch_2-00000",
    ]
    assert [row["label"] for row in rows] == [1, 0] * 5
    assert np.array_equal(np.asarray(reading.read_image(rows[1]["uri"])), PIXELS[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(reading.read_encoded(rows[3]["uri"])))), PIXELS[1])
    assert found.splits["test"]["image_id"].to_pylist() == ["test/airplane/test_batch-00000"]


def test_cifar_100_has_the_fine_label(tmp_path: Path) -> None:
    put(tmp_path / "train.bin", records([b"\x07\x01", b"\x03\x00"]))
    put(tmp_path / "test.bin", records([b"\x07\x01"]))
    put(tmp_path / "fine_label_names.txt", "apple\naquarium_fish\n")
    assert layouts.find(str(tmp_path), ["train"]) == "cifar100"
    found = CIFAR100.list_images(str(tmp_path), ["train"])
    assert found.class_texts == {"apple": "apple", "aquarium_fish": "aquarium fish"}
    rows = found.splits["train"].to_pylist()
    assert [row["class_id"] for row in rows] == ["aquarium_fish", "apple"]
    assert np.array_equal(np.asarray(reading.read_image(rows[1]["uri"])), PIXELS[1])


def test_what_is_wrong_is_named(ten: Path) -> None:
    with pytest.raises(UserError, match=r"has no split 'val'; it has train, test: set data\.val=test$"):
        CIFAR10.list_images(str(ten), ["train", "val"])
    put(ten / "data_batch_2.bin", records([b"\x09"]))
    with pytest.raises(UserError, match="an image with label 9; there are names for 0 to 2"):
        CIFAR10.list_images(str(ten), ["train"])
    put(ten / "data_batch_3.bin", records([b"\x01"])[:-1])
    with pytest.raises(UserError, match=r"data_batch_3\.bin has 3072 bytes, which are not whole records of 3073"):
        CIFAR10.list_images(str(ten), ["train"])
    (ten / "data_batch_1.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_1\.bin cannot be read"):
        CIFAR10.list_images(str(ten), ["train"])
