"""Loading of images: sizes, labels, bad files, memory."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ddps_ray import manifest, schemas, storage
from ddps_ray.errors import UserError
from ddps_ray.storage import Run
from ddps_ray.students import data, memory, sets
from ddps_ray.students.data import Pictures
from tests.students import inputs


@pytest.fixture
def broken(scenes: Path, tmp_path: Path) -> pa.Table:
    """Rows of three good images and two that cannot be used."""
    rows = []
    for index in range(5):
        file = tmp_path / f"{index}.png"
        shutil.copy(scenes / "train" / "fish" / f"{index:05d}.png", file)
        rows.append({"image_id": file.name, "uri": str(file), "class_id": "ba"[index % 2]})
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    (tmp_path / "3.png").unlink()
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("limit", [data.MEMORY_LIMIT, 0], ids=["held", "decoded on access"])
def test_bad_images_are_left_out_and_reported(broken: pa.Table, limit: int) -> None:
    pictures = Pictures(broken, ["a", "b"], lambda image: image, 64, limit=limit)
    batches = list(pictures.in_order(2))
    labels = torch.cat([labels for _, labels in batches])
    images = torch.cat([images for images, _ in batches if len(images)])
    assert labels.tolist() == [1, 1, 1]
    for got, index in zip(images, (0, 2, 4), strict=True):
        assert np.array_equal(got.permute(1, 2, 0), np.asarray(Image.open(broken["uri"][index].as_py())))
    bad = schemas.check(pictures.quarantine("evaluate"), schemas.QUARANTINE)
    assert bad["image_id"].to_pylist() == ["1.png", "3.png"]
    assert set(bad["stage"].to_pylist()) == {"evaluate"}
    assert pictures.bad_class_ids() == ["a", "a"]
    assert "decoded" in bad["reason"][0].as_py()
    assert "read" in bad["reason"][1].as_py()


@pytest.mark.parametrize("limit", [data.MEMORY_LIMIT, 0], ids=["held", "decoded on access"])
def test_an_image_that_fails_once_costs_no_other_its_label(broken: pa.Table, limit: int) -> None:
    pictures = Pictures(broken, ["a", "b"], lambda image: image, 64, limit=limit)
    list(pictures.in_order(5))
    shutil.copy(broken["uri"][0].as_py(), broken["uri"][3].as_py())
    wanted = {index: np.asarray(Image.open(broken["uri"][index].as_py())) for index in (0, 2, 3, 4)}
    for chunk in ([0, 3, 2], [4, 1, 3, 0]):
        ((images, labels),) = pictures.batches([torch.tensor(chunk)])
        good = [index for index in chunk if index != 1 and (index != 3 or limit == 0)]
        assert labels.tolist() == [0 if index == 3 else 1 for index in good]
        for got, index in zip(images, good, strict=True):
            assert np.array_equal(got.permute(1, 2, 0), wanted[index])
    assert sorted(pictures.bad) == [1, 3], "an image that failed in any pass is a row"
    assert pictures.quarantine("evaluate")["image_id"].to_pylist() == ["1.png", "3.png"]


@pytest.mark.parametrize("limit", [data.MEMORY_LIMIT, 0], ids=["held", "decoded on access"])
def test_a_bad_image_ends_the_work_where_none_may_be(broken: pa.Table, limit: int) -> None:
    with pytest.raises(UserError, match=r"/1\.png: .*decoded"):
        list(Pictures(broken, ["a", "b"], lambda image: image, 64, strict=True, limit=limit).in_order(5))


def test_an_image_that_fails_later_is_a_row_too(broken: pa.Table) -> None:
    pictures = Pictures(broken, ["a", "b"], lambda image: image, 64, limit=0)
    assert [len(labels) for _, labels in pictures.in_order(5)] == [3]
    Path(broken["uri"][4].as_py()).unlink()
    ((images, labels),) = pictures.in_order(5)
    assert len(images) == len(labels) == 2
    assert pictures.quarantine("evaluate")["image_id"].to_pylist() == ["1.png", "3.png", "4.png"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensors_are_pictures_too(broken: pa.Table, dtype: torch.dtype) -> None:
    values = torch.arange(5 * 3 * 4 * 4).reshape(5, 3, 4, 4).to(dtype)
    pictures = Pictures.of(values, torch.tensor([2, 0, 1, 1, 0]), broken)
    ((images, labels),) = pictures.batches([torch.tensor([4, 0, 2])])
    assert torch.equal(images, values[[4, 0, 2]])
    assert images.dtype == dtype
    assert labels.tolist() == [0, 2, 1]
    assert (len(pictures), pictures.bad, len(pictures.quarantine("evaluate"))) == (5, {}, 0)
    assert [len(labels) for _, labels in pictures.on(torch.device("cpu")).in_order(3)] == [3, 2]


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "said"),
    [
        ((5, 3, 4, 5), torch.uint8, 5, r"shape \(5, 3, 4, 5\)"),
        ((5, 1, 4, 4), torch.uint8, 5, "N×3×S×S"),
        ((5, 48), torch.uint8, 5, "N×3×S×S"),
        ((5, 3, 4, 4), torch.float64, 5, "float64"),
        ((5, 3, 4, 4), torch.uint8, 4, "5 images, 4 labels and 5 rows"),
        ((4, 3, 4, 4), torch.uint8, 4, "4 images, 4 labels and 5 rows"),
    ],
)
def test_tensors_of_another_shape_are_refused(
    broken: pa.Table, shape: tuple[int, ...], dtype: torch.dtype, labels: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Pictures.of(torch.zeros(shape, dtype=dtype), torch.zeros(labels, dtype=torch.long), broken)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_come_from_the_gpu_where_the_images_fit(broken: pa.Table) -> None:
    pictures = Pictures(broken, ["a", "b"], lambda image: image, 64)
    ((before, _),) = pictures.in_order(5)
    ((images, labels),) = pictures.on(torch.device("cuda", 0)).in_order(5)
    assert images.device.type == "cuda"
    assert labels.device.type == "cpu"
    assert torch.equal(images.cpu(), before)
    assert sorted(pictures.bad) == [1, 3]


def test_images_leave_a_step_its_room_on_the_gpu(broken: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(broken, ["a", "b"], lambda image: image, 64)  # five of 3 × 64² bytes
    monkeypatch.setattr(memory, "free", lambda device: 1_000_000)
    ((images, _),) = pictures.on(torch.device("cuda"), needed=1_000_000 - 5 * 3 * 64**2).in_order(5)
    assert images.device.type == "cpu"


def test_chunks_come_in_the_order_asked_however_they_are_held(scenes: Path) -> None:
    files = sorted((scenes / "train" / "gem").glob("*.png"))
    rows = pa.table({"image_id": [file.name for file in files], "uri": list(map(str, files)), "class_id": ["x"] * 12})
    chunks = torch.randperm(12, generator=torch.Generator().manual_seed(0)).split(5)
    held, streamed = (Pictures(rows, ["x"], lambda image: image, 64, limit=limit) for limit in (1 << 30, 0))
    for (kept, _), (decoded, _), chunk in zip(held.batches(chunks), streamed.batches(chunks), chunks, strict=True):
        assert torch.equal(kept, decoded)
        first = np.asarray(Image.open(files[int(chunk[0])]))
        assert np.array_equal(kept[0].permute(1, 2, 0), first)


@pytest.mark.parametrize(
    ("size", "short"), [(224, 256), (160, 176), (128, 144), (96, 104), (64, 72), (32, 32), (28, 32), (16, 16)]
)
def test_validation_images_are_resized_and_cut_as_in_rdeds_protocol(size: int, short: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (short + 9, short + 40, 3), dtype=np.uint8)
    wanted = v2.Compose([v2.Resize(short), v2.CenterCrop(size)])(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(data.validation_fit(size)(Image.fromarray(pixels))), np.asarray(wanted))


def test_a_whole_cifar_image_is_seen(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(data.validation_fit(32)(Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize("size", [5, 13, 27, 100])
def test_validation_images_have_no_black_border(size: int) -> None:
    white = Image.new("RGB", (300, 200), "white")
    assert np.asarray(data.validation_fit(size)(white)).min() == 255


def test_validation_is_the_classes_of_the_set_with_their_labels(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    everything = data.class_ids(run, "val")
    subset = [everything[7], everything[2]]
    val = data.load_validation(run, "val", subset, 32)
    images, labels = next(val.in_order(100))
    assert images.shape == (12, 3, 32, 32)
    assert labels.bincount().tolist() == [6, 6]
    assert {row["class_id"] for row in val.rows.to_pylist()} == set(subset)
    first = val.rows.slice(0, 1).to_pylist()[0]
    assert subset[int(labels[0])] == first["class_id"]
    with pytest.raises(UserError, match="'val' has no image"):
        data.load_validation(run, "val", ["nosuch"], 32)


def test_distilled_set_is_what_its_metadata_lists(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    classes = data.class_ids(run, "train")[:3]
    folder = inputs.distilled(run, scenes, "ddps", ipc=2, classes=classes, slots=4)
    stray = Path(folder) / "train" / classes[0] / "stray.png"
    Image.new("RGB", (64, 64)).save(stray)
    distilled = sets.load_distilled(folder, classes, 64)
    images, labels = next(distilled.pictures.in_order(100))
    assert distilled.mosaic
    assert images.shape == (6, 3, 64, 64)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    single = sets.load_distilled(inputs.distilled(run, scenes, "ddps", 12, classes, slots=1), classes, 32)
    assert not single.mosaic
    assert next(single.pictures.in_order(100))[0].shape == (36, 3, 32, 32)


def test_damaged_distilled_set_is_the_users_to_mend(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    classes = data.class_ids(run, "train")[:2]
    folder = inputs.distilled(run, scenes, "ddps", 1, classes, slots=4)
    file = next((Path(folder) / "train" / classes[1]).glob("*.png"))
    file.write_bytes(b"no image")
    with pytest.raises(UserError, match=file.name):
        sets.load_distilled(folder, classes, 64)
    Path(folder, "metadata.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"metadata\.parquet"):
        sets.load_distilled(folder, classes, 64)


def test_manifest_of_a_run_on_a_uri(scenes: Path, tmp_path: Path) -> None:
    inputs.indexed(tmp_path / "run", scenes)
    run = Run(f"file://{tmp_path}/run")
    assert storage.exists(run.path(manifest.FOLDER))
    assert len(data.load_training(run, "train", data.class_ids(run, "train"), 16)) == 120
