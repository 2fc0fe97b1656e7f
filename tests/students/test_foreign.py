"""Foreign sets: the same images in each format are the same set, and what is not one is refused in one line."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from ddps_ray.config import ForeignSet
from ddps_ray.errors import UserError
from ddps_ray.students import foreign

LABELS = {"n02102040": 0, "n03000684": 1, "n03445777": 2}
IDS = tuple(LABELS)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIDE = 8


def pixels() -> Tensor:
    """Six images, two a class, of random bytes."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, SIDE, SIDE), np.uint8))


NUMBERS = torch.tensor([0, 0, 1, 1, 2, 2])


def normalised() -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels().float() / 255 - mean) / std


def png(image_CHW: Tensor) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(data, "PNG")
    return data.getvalue()


def write_folders(root: Path, names: tuple[str, ...] = IDS) -> Path:
    for number, (image_CHW, label) in enumerate(zip(pixels(), NUMBERS.tolist(), strict=True)):
        file = root / names[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image_CHW))
    return root


def write_parquet(file: Path, labels: Any, column: str = "label", metadata: dict[str, str] | None = None) -> Path:
    images = [{"bytes": png(image_CHW), "path": None} for image_CHW in pixels()]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, column: labels}).replace_schema_metadata(metadata), file)
    return file


def write_tensors(file: Path, held: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, file)
    return file


def load(path: Path, size: int = SIDE, known: dict[str, int] = LABELS, **settings: Any) -> foreign.Foreign:
    return foreign.load("theirs", ForeignSet(path=str(path), **settings), known, {}, size)


def look(path: Path, known: dict[str, int] = LABELS, **settings: Any) -> foreign.Facts:
    return foreign.look("theirs", ForeignSet(path=str(path), **settings), known, {})


def refused(path: Path, **settings: Any) -> str:
    """What is said, by both functions alike, of a set that is none; one line."""
    with pytest.raises(UserError) as looked:
        look(path, **settings)
    with pytest.raises(UserError) as loaded:
        load(path, **settings)
    said = str(looked.value)
    assert said == str(loaded.value)
    assert "\n" not in said
    assert said.startswith("evaluate.foreign.theirs: ")
    return said.removeprefix("evaluate.foreign.theirs: ")


def is_turned(found: foreign.Foreign) -> bool:
    """Whether the classes of the six images are those of `NUMBERS` from the last to the first."""
    return torch.equal(found.labels_N, NUMBERS) and torch.equal(found.images_NCHW, pixels()[[4, 5, 2, 3, 0, 1]])


NORMALISED: dict[str, Any] = {"mean": MEAN, "std": STD}
EXACT: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "class folders": (write_folders, {}),
    "below train": (lambda root: write_folders(root / "train").parent, {}),
    "numbered folders": (lambda root: write_folders(root, ("000", "001", "002")), {}),
    "as SRe2L names them": (lambda root: write_folders(root, ("new000", "new001", "new002")), {}),
    "Parquet of labels": (
        lambda root: write_parquet(root / "train-00000-of-00001.parquet", NUMBERS.tolist()).parent,
        {},
    ),
    "Parquet of class ids": (
        lambda root: write_parquet(root / "a.parquet", [IDS[n] for n in NUMBERS], "class_id"),
        {},
    ),
    "uint8 tensors": (lambda root: write_tensors(root / "a.pt", {"images": pixels(), "labels": NUMBERS}), {}),
    "a tuple": (lambda root: write_tensors(root / "a.pth", (pixels(), NUMBERS)), {}),
    "float tensors": (
        lambda root: write_tensors(root / "a.pt", {"images": normalised(), "labels": NUMBERS}),
        NORMALISED,
    ),
    "as DSA stores them": (
        lambda root: write_tensors(
            root / "res.pt",
            {"data": [[normalised(), NUMBERS]], "accs_all_exps": {"ConvNet": [np.float64(0.3), np.float32(0.2)]}},
        ),
        NORMALISED,
    ),
    "a list of experiments": (lambda root: write_tensors(root / "a.pt", [[normalised(), NUMBERS]]), NORMALISED),
    "as MTT stores them": (
        lambda root: (
            write_tensors(root / "labels_best.pt", NUMBERS)
            and write_tensors(root / "images_best.pt", normalised()).parent
        ),
        NORMALISED,
    ),
    "other precisions": (
        lambda root: write_tensors(root / "a.pt", (normalised().double(), NUMBERS.to(torch.uint8))),
        NORMALISED,
    ),
    "a list of labels": (lambda root: write_tensors(root / "a.pt", (pixels(), NUMBERS.tolist())), {}),
    "keys of one's own": (
        lambda root: write_tensors(root / "a.pt", {"z": pixels(), "t": NUMBERS}),
        {"images": "z", "labels": "t"},
    ),
}


@pytest.mark.parametrize("kind", EXACT)
def test_the_same_images_in_each_format_are_the_same_set(kind: str, tmp_path: Path) -> None:
    write, settings = EXACT[kind]
    path = write(tmp_path / "set")
    found, facts = load(path, **settings), look(path, **settings)

    assert found.class_ids == facts.class_ids == IDS
    assert found.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.given_NK is None
    assert torch.equal(found.images_NCHW, pixels())
    assert facts.counts == dict.fromkeys(IDS, 2)
    assert (facts.images, facts.ipc, facts.side, facts.notes) == (6, 2, SIDE, ())
    assert facts.size == found.size == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert facts.digest == found.digest


def test_images_are_in_the_order_of_their_classes_and_names_however_they_are_stored(tmp_path: Path) -> None:
    """As those of our own sets are: seeds draw places."""
    mixed = torch.tensor([3, 1, 4, 0, 5, 2])
    images = [{"bytes": png(pixels()[number]), "path": f"a/{number}.png"} for number in mixed.tolist()]
    pq.write_table(pa.table({"image": images, "label": NUMBERS[mixed].tolist()}), tmp_path / "a.parquet")
    named = load(tmp_path / "a.parquet")
    assert torch.equal(named.images_NCHW, pixels())
    assert named.ids[0] == "a.parquet#3"
    found = load(write_tensors(tmp_path / "a.pt", (pixels()[mixed], NUMBERS[mixed])))
    assert torch.equal(found.images_NCHW, pixels()[[1, 0, 3, 2, 4, 5]]), "of one class as they were"
    for each in (named, found):
        assert torch.equal(each.labels_N, NUMBERS)
    folders = load(write_folders(tmp_path / "numbered", ("2", "1", "0")))
    assert is_turned(folders)


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file({"images": pixels(), "labels": NUMBERS}, tmp_path / "a.safetensors")
    found = load(tmp_path / "a.safetensors")
    assert torch.equal(found.images_NCHW, pixels())
    assert found.labels_N.tolist() == NUMBERS.tolist()


def test_encoded_images_are_rows_that_can_be_read_like_those_of_our_own_sets(tmp_path: Path) -> None:
    rows = look(write_folders(tmp_path)).rows
    assert rows is not None
    assert rows["image_id"].to_pylist()[0] == "n02102040/0.png"
    assert rows["uri"].to_pylist()[5] == str(tmp_path / "n03445777" / "5.png")
    assert rows["class_id"].to_pylist() == [IDS[number] for number in NUMBERS]


def test_floats_beyond_0_to_1_are_kept_as_they_are(tmp_path: Path) -> None:
    images = torch.full((3, 3, 4, 4), 0.5)
    images[0] = 1.5
    images[1] = -0.25
    path = write_tensors(tmp_path / "a.pt", (images, torch.tensor([0, 1, 2])))
    found = load(path, 4, mean=(0, 0, 0), std=(1, 1, 1))
    assert found.images_NCHW.dtype == torch.float32
    assert found.images_NCHW[:, 0, 0, 0].tolist() == [382.5, -63.75, 127.5]


def test_soft_labels_are_probabilities_in_the_order_of_the_classes(tmp_path: Path) -> None:
    columns = ("n03445777", "n02102040", "n03000684")  # not sorted
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]))
    path = write_tensors(tmp_path / "a.pt", {"image_tensor": pixels()[:2], "soft_labels": logits})
    found = load(path, classes=columns, soft_labels="logits")
    assert found.class_ids == IDS
    assert found.given_NK is not None
    torch.testing.assert_close(found.given_NK, torch.tensor([[0.2, 0.1, 0.7], [0.8, 0.1, 0.1]]))
    assert found.labels_N.tolist() == [2, 0]

    path = write_tensors(tmp_path / "b.pt", {"image_tensor": pixels()[:2], "soft_labels": logits.exp()})
    same = load(path, classes=columns, soft_labels="probabilities")
    torch.testing.assert_close(same.given_NK, found.given_NK)


def test_images_of_another_size_are_resized_alike_in_files_and_in_bytes(tmp_path: Path) -> None:
    files = load(write_folders(tmp_path / "files"), 6).images_NCHW
    held = load(write_tensors(tmp_path / "a.pt", (pixels(), NUMBERS)), 6).images_NCHW
    assert files.shape == (6, 3, 6, 6)
    assert torch.equal(files, held)
    first = Image.open(io.BytesIO(png(pixels()[0]))).resize((6, 6), Image.Resampling.BICUBIC)
    assert np.array_equal(files[0].permute(1, 2, 0).numpy(), np.array(first))
    smooth = torch.linspace(0, 1, 8).expand(2, 3, 8, 8).contiguous()
    path = write_tensors(tmp_path / "b.pt", (smooth, torch.tensor([0, 1])))
    floats = load(path, 16, mean=(0, 0, 0), std=(1, 1, 1)).images_NCHW
    assert floats.shape == (2, 3, 16, 16)
    assert floats.mean().item() == pytest.approx(127.5, abs=0.5)


def test_of_a_run_of_mtt_with_zca_the_images_are_taken_that_were_brought_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "labels_best.pt", NUMBERS)
    write_tensors(tmp_path / "images_best.pt", torch.randn(6, 3, SIDE, SIDE))
    write_tensors(tmp_path / "images_zca_best.pt", pixels())
    assert torch.equal(load(tmp_path).images_NCHW, pixels())


def test_labels_may_be_in_a_file_of_any_name(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.pt", {"images": pixels()})
    write_tensors(tmp_path / "b.pt", {"labels": NUMBERS, "soft_labels": torch.rand(6, 3)})
    assert load(tmp_path, images="a.pt", labels="b.pt").labels_N.tolist() == NUMBERS.tolist()
    assert load(tmp_path / "a.pt", labels="b.pt", soft_labels="logits").given_NK is not None


def test_of_a_long_image_the_middle_is_taken_and_that_is_said(tmp_path: Path) -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    (tmp_path / IDS[0]).mkdir()
    Image.fromarray(wide).save(tmp_path / IDS[0] / "a.png")
    assert load(tmp_path, 4).images_NCHW.unique().tolist() == [200]
    facts = look(tmp_path)
    assert facts.side == 4
    assert "warning: 1 of its images are not square: of those the middle is taken" in facts.notes


def test_names_are_class_ids_or_wordnet_ids_and_numbers_the_data_sets_labels(tmp_path: Path) -> None:
    named = {"springer": 0, "saw": 1, "ball": 2}
    wnids = {"springer": IDS[0], "saw": IDS[1], "ball": IDS[2]}
    settings = ForeignSet(path=str(write_folders(tmp_path / "wnids")))
    found = foreign.load("theirs", settings, named, wnids, SIDE)
    assert found.class_ids == ("ball", "saw", "springer")
    assert is_turned(found)

    path = write_tensors(
        tmp_path / "a.pt", (pixels(), NUMBERS)
    )  # label 0 is the springer, which is not the first by name
    assert is_turned(load(path, known=named))
    assert load(path, known=named, classes=("ball", "saw", "springer")).labels_N.tolist() == NUMBERS.tolist()


def test_folders_called_by_number_are_those_numbers_in_any_order_of_the_ids(tmp_path: Path) -> None:
    numbers = {str(number): place for place, number in enumerate(sorted(map(str, range(12))))}
    assert numbers["10"] == 2, "the data set sorts its class folders as text"
    found = look(write_folders(tmp_path / "set", ("02", "10", "11")), known=numbers)
    assert found.class_ids == ("10", "11", "2")
    path = write_tensors(tmp_path / "a.pt", (pixels(), NUMBERS))
    assert "name the classes in the order of the labels in `classes`" in refused(path, known=numbers)


def test_parquet_labels_go_by_the_names_that_the_file_has_for_them(tmp_path: Path) -> None:
    names = '["n03445777", "n03000684", "n02102040"]'
    features = f'{{"info": {{"features": {{"label": {{"_type": "ClassLabel", "names": {names}}}}}}}}}'
    path = write_parquet(tmp_path / "a.parquet", NUMBERS.tolist(), metadata={"huggingface": features})
    assert is_turned(load(path))


def test_the_training_split_is_taken_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", NUMBERS.tolist())
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [0] * 6)
    assert look(tmp_path).counts == dict.fromkeys(IDS, 2)


def test_the_classes_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("n03445777\nn03000684\n\nn02102040\n")
    path = write_tensors(tmp_path / "a.pt", (pixels(), NUMBERS))
    assert is_turned(load(path, classes=str(tmp_path / "classes.txt")))


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a.pt", (pixels()[:5], NUMBERS[:5]))
    assert look(path).notes == (
        "warning: its classes differ in number: 1 images of n03445777, 2 of n02102040; its IPC is their rounded mean",
    )
    path = write_tensors(tmp_path / "b.pt", (pixels()[:4], NUMBERS[:4]))
    assert look(path).notes[0].startswith("warning: its labels are numbers, of 2 of the data set's 3 classes")
    assert look(path, classes=IDS[:2]).notes == ()
    path = write_tensors(tmp_path / "c.pt", (normalised(), NUMBERS))
    assert "of its values are outside of 0..1" in look(path, mean=(0, 0, 0), std=(1, 1, 1)).notes[0]
    path = write_tensors(tmp_path / "d.pt", (pixels() / 255, NUMBERS))
    assert "as those of images that were not normalised" in look(path, **NORMALISED).notes[0]
    path = write_tensors(tmp_path / "e.pt", {"data": [[pixels(), NUMBERS], [pixels(), NUMBERS]]})
    assert "the sets of 2 experiments; the first one is taken" in look(path).notes[0]
    write_folders(tmp_path / "f")
    (tmp_path / "f" / "loose.png").write_bytes(png(pixels()[0]))
    assert "1 images that lie in" in look(tmp_path / "f").notes[0]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    one, other = look(write_folders(tmp_path / "one")), look(write_folders(tmp_path / "other"))
    assert one.digest == other.digest
    (tmp_path / "other" / IDS[0] / "0.png").write_bytes(png(pixels()[3]))
    assert look(tmp_path / "other").digest != one.digest


class Pickled:
    """An object that only unpickling brings back."""


TENSORS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a label over": ((pixels(), NUMBERS + 1), {}, "label 3 is out of range: the data set's are 3, from 0 to 2"),
    "a label under": ((pixels(), NUMBERS - 1), {}, "label -1 is out of range"),
    "over the given": ((pixels(), NUMBERS), {"classes": IDS[:2]}, "label 2 is out of range: the given classes are 2"),
    "unknown given": (
        (pixels(), NUMBERS),
        {"classes": ("n02102040", "cat")},
        "classes: 'cat': the data set has no such",
    ),
    "given twice": (
        (pixels(), NUMBERS),
        {"classes": ("n02102040", "n02102040")},
        "classes: 'n02102040' is there twice",
    ),
    "channels last": (
        (pixels().permute(0, 2, 3, 1), NUMBERS),
        {},
        "images are 6×8×8×3, not N×3×S×S: permute(0, 3, 1, 2)",
    ),
    "grey": ((pixels()[:, :1], NUMBERS), {}, "images are 6×1×8×8, not N×3×S×S"),
    "oblong": ((pixels()[..., :4], NUMBERS), {}, "images are 6×3×8×4, not N×3×S×S"),
    "flat": ((pixels().flatten(1), NUMBERS), {}, "images are 6×192, not N×3×S×S"),
    "empty": ((pixels()[:0], NUMBERS[:0]), {}, "images are 0×3×8×8, not N×3×S×S"),
    "whole numbers": ((pixels().long(), NUMBERS), {}, "images are torch.int64, neither floats nor uint8"),
    "no mean": ((normalised(), NUMBERS), {}, "images are floats: give the mean and std"),
    "no std": ((normalised(), NUMBERS), {"mean": MEAN}, "images are floats: give the mean and std"),
    "mean of bytes": (
        (pixels(), NUMBERS),
        NORMALISED,
        "images are uint8, as they are seen: mean and std are for floats",
    ),
    "NaN": (
        (normalised().index_fill(0, torch.tensor([2]), float("nan")), NUMBERS),
        NORMALISED,
        "1 of 6 images have values",
    ),
    "one label": ((pixels(), torch.tensor(0)), {}, "has 6 images, but 1 labels"),
    "arrays": ({"images": pixels().numpy(), "labels": NUMBERS}, {}, "has pickled objects, and only tensors are loaded"),
    "a column of labels": ((pixels(), NUMBERS[:, None]), {}, "labels are 6×1, not a whole number an image"),
    "bool labels": ((pixels(), NUMBERS.bool()), {}, "labels are torch.bool, not whole numbers"),
    "three things": ([pixels(), NUMBERS, NUMBERS], {}, "holds a list of 3, not images and labels: convert with"),
    "fewer labels": ((pixels(), NUMBERS[:5]), {}, "has 6 images, but 5 labels"),
    "float labels": ((pixels(), NUMBERS.float()), {}, "labels are torch.float32, not whole numbers"),
    "soft, not said": (
        (pixels(), torch.rand(6, 3)),
        {},
        "labels are 6×3, not a whole number an image: say in `soft_labels`",
    ),
    "said, not soft": ((pixels(), NUMBERS), {"soft_labels": "logits"}, "labels are 6, not soft ones, N×K"),
    "K": (
        (pixels(), torch.rand(6, 4)),
        {"soft_labels": "logits"},
        "soft labels are of 4 classes, but the data set has 3",
    ),
    "logits": ((pixels(), torch.randn(6, 3)), {"soft_labels": "probabilities"}, "are not probabilities: values from"),
    "soft NaN": (
        (pixels(), torch.full((6, 3), float("nan"))),
        {"soft_labels": "logits"},
        "soft labels have values that are",
    ),
    "a pickled object": (
        {"images": pixels(), "labels": NUMBERS, "args": Pickled()},
        {},
        "has pickled objects, and only",
    ),
    "unknown keys": ({"pics": pixels(), "labels": NUMBERS}, {}, "it has labels, pics: name it in `images`"),
    "no labels": ({"images": pixels(), "lr": 0.1}, {}, "it has images, lr: name it in `labels`"),
    "images only": (pixels(), {}, "has images only: name the file of its labels, in the same folder, in `labels`"),
    "sparse": ((pixels().to_sparse(), NUMBERS), {}, "its images are a sparse or quantised tensor"),
    "lists": ({"images": [[1, 2]], "labels": [0, 1]}, {}, "its images are no tensor, but a list of 1: convert with"),
    "a text": ("images", {}, "holds a str, and no tensors of images"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_no_set_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    held, settings, said = TENSORS[kind]
    assert said in refused(write_tensors(tmp_path / "a.pt", held), **settings)


def test_how_to_convert_pickled_objects_is_said(tmp_path: Path) -> None:
    said = refused(write_tensors(tmp_path / "a.pt", {"images": pixels(), "labels": Pickled()}))
    assert said.endswith('convert it with torch.save({"images": images, "labels": labels}, file)')


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"PK\x03\x04 and then nothing", b"\x80\x02}q\x00.", b"PAR1\x15\x04\x15"]
)
def test_a_damaged_file_of_tensors_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    assert "a.pt cannot be read as what torch.save writes" in refused(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(data)
    assert "a.safetensors cannot be read as safetensors" in refused(tmp_path / "a.safetensors")


def test_what_git_lfs_has_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert refused(tmp_path / "a.pt").endswith("fetch it with `git lfs pull`")


FOLDERS: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "another class": (
        (*IDS[:2], "n01440764"),
        {},
        "'n01440764': the data set has no such class; it has n02102040, n03",
    ),
    "only other classes": (
        ("n01440764", "n02979186", "n03028079"),
        {},
        "'n01440764' and 2 more: the data set has no such",
    ),
    "words": (("cat", "dog", "cow"), {}, "'cat' and 2 more: the data set has no such class"),
    "too high a number": (("000", "001", "003"), {}, "label 3 is out of range: the data set's are 3, from 0 to 2"),
    "one class twice": (("0", "00", "1"), {}, "'0' and '00' are both class 'n02102040'"),
    "none of the given": (
        IDS,
        {"classes": IDS[:2]},
        "'n03445777' is class 'n03445777', which is none of those in `cla",
    ),
    "a mean": (IDS, {"mean": MEAN}, "mean is for tensors, and"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_that_are_no_set_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    names, settings, said = FOLDERS[kind]
    assert said in refused(write_folders(tmp_path, names), **settings)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'} does not exist"
    (tmp_path / "empty").mkdir()
    assert "empty has nothing in it: neither folders of images by class" in refused(tmp_path / "empty")
    write_folders(tmp_path / "part")
    (tmp_path / "part" / "n03445777" / "4.png").unlink()
    (tmp_path / "part" / "n03445777" / "5.png").unlink()
    assert "n03445777 has no images" in refused(tmp_path / "part")
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "a.zip has another ending than .parquet" in refused(tmp_path / "a.zip")
    write_folders(tmp_path / "two")
    write_tensors(tmp_path / "two" / "a.pt", (pixels(), NUMBERS))
    assert "two could be read as imagefolder or tensors: say in `format`" in refused(tmp_path / "two")
    assert look(tmp_path / "two", format="tensors").rows is None
    write_tensors(tmp_path / "several" / "a.pt", pixels())
    write_tensors(tmp_path / "several" / "b.pt", pixels())
    assert "has a.pt, b.pt: name one file in `path`" in refused(tmp_path / "several")
    assert "has no class folders" in refused(tmp_path / "empty", format="imagefolder")
    assert "has no files of tensors: name one" in refused(tmp_path / "empty", format="tensors")
    assert "has no Parquet files with a column of images" in refused(tmp_path / "empty", format="parquet")


def test_a_link_that_leads_nowhere_is_an_image_that_is_lost(tmp_path: Path) -> None:
    (write_folders(tmp_path) / IDS[0] / "9.png").symlink_to(tmp_path / "gone.png")
    assert "has 1 link that leads nowhere: a distilled set must be whole" in refused(tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    file = write_folders(tmp_path) / IDS[1] / "2.png"
    whole = file.read_bytes()
    for data in (b"", b"no image"):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"n03000684/2\.png: (empty file|not an image)"):
            look(tmp_path)
    file.write_bytes(whole[:-40])  # its header is whole
    with pytest.raises(
        UserError, match=r"evaluate\.foreign\.theirs: .*n03000684/2\.png: .*: a distilled set must be whole"
    ):
        load(tmp_path)


def test_parquet_files_that_are_no_set_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    assert "label 3 is out of range" in refused(write_parquet(file, [0, 0, 1, 1, 3, 3]))
    assert "'cat' and 1 more: the data set has no such class" in refused(write_parquet(file, ["cat", "dog"] * 3))
    assert "row 1 has no label" in refused(write_parquet(file, [0, None, 1, 1, 2, 2]))
    assert "its labels 'label' are double" in refused(write_parquet(file, [0.5] * 6))
    said = refused(write_parquet(file, NUMBERS.tolist(), "target"))
    assert "has no column 'label' or 'class_id' among image, target: name it in `labels`" in said
    assert by_column(file, "target") == [2, 2, 2]
    pq.write_table(pa.table({"label": [0, 1]}), file)
    assert "has no column `image` of encoded images among label: name it in `images`" in refused(file)
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), file)
    assert "a.parquet has no images" in refused(file)
    file.write_bytes(b"PAR1 and then nothing")
    assert "a.parquet cannot be read" in refused(file)
    pq.write_table(pa.table({"image": [png(pixels()[0]), None], "label": [0, 1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="no bytes are stored for it"):
        look(tmp_path / "b.parquet")
    write_parquet(tmp_path / "shards" / "train-00000-of-00002.parquet", NUMBERS.tolist())
    assert "lacks train-00001-of-00002.parquet" in refused(tmp_path / "shards")


def by_column(file: Path, column: str) -> list[int]:
    """Images of each class by a label column that is named."""
    facts = look(file, labels=column)
    return [facts.counts[class_id] for class_id in IDS]


def test_plain_numbers_of_an_older_numpy_beside_the_tensors_are_no_objects(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "new.pt", {"data": [[pixels(), NUMBERS]], "accs": [np.float64(0.3)]})
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            data = new.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core" in data
                data = data.replace(b"numpy._core", b"numpy.core")
            old.writestr(name, data)
    assert torch.equal(load(tmp_path / "old.pt").images_NCHW, pixels())
