"""Stored soft labels: the training that they give, what is kept of the logits, their bytes, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from ddps_ray import schemas
from ddps_ray.config import Labels, Student
from ddps_ray.errors import UserError
from ddps_ray.students import augment, labels, networks
from ddps_ray.students.data import Pictures
from ddps_ray.students.labels import Kept, LabelSet, Stored
from ddps_ray.students.losses import LOSSES, Targets
from ddps_ray.students.optimising import Share
from ddps_ray.students.protocols import Protocol
from ddps_ray.students.sets import TrainingSet
from ddps_ray.students.training import Means, Training
from tests.students.test_training import Recorder, protocol

CPU = torch.device("cpu")
SIDE = 16


def noise_set(images: int, classes: int, mosaic: bool = True) -> TrainingSet:
    """Images of noise, each class with a mean of its own."""
    generator = torch.Generator().manual_seed(1)
    labels_N = torch.arange(images) % classes
    noise_NCHW = torch.randint(0, 156, (images, 3, SIDE, SIDE), generator=generator)
    images_NCHW = (noise_NCHW + 100 * labels_N[:, None, None, None] // classes).to(torch.uint8)
    names = [f"{number:05d}.png" for number in range(images)]
    rows = pa.table({"image_id": names, "uri": names, "class_id": [str(label) for label in labels_N.tolist()]})
    return TrainingSet(Pictures.of(images_NCHW, labels_N, rows), mosaic)


def network(classes: int, seed: int, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build(Student(arch="convnet2", width=width), classes, SIDE)


def teacher(classes: int) -> nn.Module:
    """A network whose logits are some units apart, as a trained one's."""
    made = network(classes, 8)
    with torch.no_grad():
        made.head.weight *= 300  # type: ignore[operator,union-attr]
    return made.eval()


class Rounded(nn.Module):
    """A teacher that gives its logits in float16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits that float16 can hold."""
        logits_NK: Tensor = self.network(images_NCHW).half().float()
        return logits_NK


def label_set(folder: Path, images: int, made: Protocol, kept: Kept, seed: int = 3) -> LabelSet:
    return LabelSet(str(folder), images, made, seed, SIDE, kept)


def stored(wanted: LabelSet, training_set: TrainingSet, guide: nn.Module) -> LabelSet:
    list(labels.write(wanted, training_set, guide, CPU, wanted.missing()))
    wanted.finish({})
    return wanted


def losses(
    training_set: TrainingSet, made: Protocol, guide: nn.Module | None, source: Stored | None = None, world: int = 1
) -> list[float]:
    """Losses of all steps of a student's training."""
    means = Means(SIDE, share=Share(0, world))
    work = Training(network(made_of(training_set), 4), guide, training_set, made, 3, means, source)
    return [loss.item() for epoch in range(made.epochs) for loss in work.losses(epoch)]


def made_of(training_set: TrainingSet) -> int:
    return int(training_set.pictures.labels_N.max()) + 1


def files(wanted: LabelSet) -> list[Path]:
    return sorted(Path(wanted.uri).glob("*.parquet"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "mse", "ema": 0.9, "shuffle": False},
        {"cutmix": False, "crop_scale": (1.0, 1.0)},
        {"batch": 41},  # of 43 images: the last batch has two
        {"batch": 42},  # the last batch, of one, is left out
    ],
)
def test_the_loss_curve_is_that_of_the_teacher_to_the_rounding_of_float16(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    made, training_set, guide = protocol(4, **changes), noise_set(43, 10), teacher(10)
    wanted = stored(label_set(tmp_path, 43, made, Kept(10)), training_set, guide)
    on_the_fly, from_labels = losses(training_set, made, guide), losses(training_set, made, None, Stored(wanted))
    early = 2 * wanted.steps
    assert from_labels[:early] == pytest.approx(on_the_fly[:early], rel=1e-3)
    assert from_labels == pytest.approx(on_the_fly, rel=1e-2), "what is a rounding at first grows from step to step"
    assert from_labels == losses(training_set, made, Rounded(guide)), "and nothing else than that rounding"
    assert min(on_the_fly) > 1e-2, "there is something to compare"


def test_all_logits_as_the_top_of_as_many_give_the_same(tmp_path: Path) -> None:
    assert labels.kept_of(Labels(top=10), 10, protocol(1)) == Kept(10)
    made, training_set, guide = protocol(3), noise_set(30, 10), teacher(10)
    nearly = labels.kept_of(Labels(top=9), 10, made)
    assert nearly == Kept(10, 9, 20.0)
    wanted = stored(label_set(tmp_path, 30, made, nearly), training_set, guide)
    # The one class that is not kept has all of the rest to itself.
    assert losses(training_set, made, None, Stored(wanted)) == pytest.approx(
        losses(training_set, made, guide), rel=1e-2
    )


def test_what_is_kept_of_the_logits_by_hand() -> None:
    logits = torch.tensor([[2 * math.log(4), 0.0, 2 * math.log(2), 2 * math.log(3)]])
    kept = Kept(4, 2, temperature=2.0)
    columns = kept.columns(logits)
    assert columns["classes"].to_pylist() == [[0, 3]]
    assert columns["logits"].to_pylist()[0] == pytest.approx([2 * math.log(4), 2 * math.log(3)], rel=1e-3)
    # At temperature 2 the teacher says 0.4, 0.1, 0.2, 0.3: the two that are not kept get 0.15 each.
    assert columns["rest"].to_pylist() == pytest.approx([2 * math.log(1.5)])
    rows = pa.table({name: columns[name] for name in ("classes", "logits", "rest")})
    given = torch.softmax(kept.logits(rows) / 2, 1)
    assert given.tolist()[0] == pytest.approx([0.4, 0.15, 0.15, 0.3], abs=1e-3)
    # And the student that says a quarter each has that loss: Σ p·log(p / ¼).
    loss = LOSSES["kl"](torch.zeros(1, 4), Targets(torch.tensor([0]), teacher_NK=kept.logits(rows)), 2.0)
    assert loss.item() == pytest.approx(sum(p * math.log(4 * p) for p in (0.4, 0.15, 0.15, 0.3)), rel=1e-3)
    plain = replace(kept, temperature=None).columns(logits)
    assert plain["rest"].to_pylist() == pytest.approx([math.log(2)]), "the mean of 0 and 2·log 2"
    assert labels.kept_of(Labels(top=2), 4, protocol(1, loss="mse")).temperature is None


@pytest.mark.parametrize(
    ("images", "classes", "kept", "changes"),
    [
        (10, 10, Kept(10), {"batch": 10}),  # the smallest set that there is: almost nothing but the file's own bytes
        (500, 10, Kept(10), {"batch": 100}),
        (500, 10, Kept(10, 3, 20.0), {"batch": 100, "shuffle": False}),
        (2000, 200, Kept(200), {"batch": 100}),
        (2000, 200, Kept(200, 10, 20.0), {"batch": 100, "crop_scale": (1.0, 1.0), "shuffle": False}),
        (2000, 200, Kept(200, 5), {"batch": 1000, "cutmix": False}),
    ],
)
def test_bytes_are_as_planned(tmp_path: Path, images: int, classes: int, kept: Kept, changes: dict[str, Any]) -> None:
    made, training_set = protocol(20, **changes), noise_set(images, classes)
    wanted = label_set(tmp_path, images, made, kept)
    planned = wanted.planned()
    stored(wanted, training_set, teacher(classes))
    on_disk = sum(file.stat().st_size for file in files(wanted))
    assert planned == pytest.approx(on_disk, rel=0.05)
    assert wanted.bytes() == on_disk
    assert on_disk > images * 20 * (2 * classes if kept.top is None else 2 * kept.top)


def test_a_row_says_what_the_image_went_through(tmp_path: Path) -> None:
    made, training_set, guide = protocol(2, batch=7), noise_set(21, 10), Recorder(teacher(10))
    wanted = stored(label_set(tmp_path, 21, made, Kept(10)), training_set, guide)
    (file,) = files(wanted)
    rows = schemas.check(pq.read_table(file), schemas.labels(10, None)).to_pylist()
    assert [(row["epoch"], row["step"]) for row in rows] == [
        (epoch, step) for epoch in range(2) for step in range(3) for _ in range(7)
    ]
    assert sorted(row["image"] for row in rows[:21]) == list(range(21))
    ((all_NCHW, _),) = training_set.pictures.in_order(21)
    batch = rows[28:35]

    def crop(row: dict[str, Any]) -> Tensor:
        swaps = torch.tensor([[row["swap_columns"]], [row["swap_rows"]]])
        box = torch.tensor([[row[f"crop_{name}"] for name in ("left", "top", "width", "height")]])
        whole = augment.swap_halves(all_NCHW[row["image"]][None], swaps)
        return augment.normalise(augment.resized_crop(whole, box, torch.tensor([row["flip"]]), SIDE))[0]

    by_image = {row["image"]: crop(row) for row in batch}
    for row, seen in zip(batch, guide.seen[4], strict=True):
        mixed = by_image[row["image"]].clone()
        window = slice(row["cut_top"], row["cut_bottom"]), slice(row["cut_left"], row["cut_right"])
        mixed[:, *window] = by_image[row["partner"]][:, *window]
        assert torch.equal(mixed, seen)
        assert row["kept"] == pytest.approx(1 - mixed[0][window].numel() / SIDE**2)
        assert row["logits"] == pytest.approx(guide.network(seen[None])[0].tolist(), abs=0.02)


def test_a_training_that_goes_on_finds_its_place_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "ROWS", 40)
    made, training_set, guide = protocol(6), noise_set(24, 10), teacher(10)
    wanted = stored(label_set(tmp_path, 24, made, Kept(10)), training_set, guide)
    assert [len(pq.read_table(file)) for file in files(wanted)] == [40, 40, 40, 24], "five batches of eight each"
    half = Training(network(10, 4), None, training_set, made, 3, Means(SIDE), Stored(wanted))
    whole = losses(training_set, made, guide)
    assert [loss.item() for epoch in (0, 1, 2) for loss in half.losses(epoch)] == pytest.approx(whole[:9], rel=1e-2)
    again = Training(network(10, 5), None, training_set, made, 3, Means(SIDE), Stored(wanted))
    again.restore(half.state())
    assert [loss.item() for epoch in (3, 4, 5) for loss in again.losses(epoch)] == pytest.approx(whole[9:], rel=1e-2)


def test_only_the_files_that_are_missing_are_made_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "ROWS", 16)
    made, training_set, guide = protocol(3), noise_set(24, 10), teacher(10)
    wanted = stored(label_set(tmp_path, 24, made, Kept(10)), training_set, guide)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files(wanted)}
    assert len(before) == 5, "nine batches, two a file: some begin inside an epoch"
    for number in (1, 3, 4):
        files(wanted)[0].with_name(f"{number:06d}.parquet").unlink()
    assert wanted.bytes() is None
    assert wanted.missing() == [1, 3, 4]
    assert list(labels.write(wanted, training_set, guide, CPU, wanted.missing())) == [16, 16, 8]
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files(wanted)}
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert {name for name in after if after[name] == before[name]} == {"000000.parquet", "000002.parquet"}


def test_workers_read_the_labels_of_one(tmp_path: Path) -> None:
    made, training_set, guide = protocol(2), noise_set(27, 10), teacher(10)
    wanted = stored(label_set(tmp_path, 27, made, Kept(10)), training_set, guide)
    on_the_fly = losses(training_set, made, guide, world=2)
    assert len(on_the_fly) == 8, "the last batch of each epoch, of three, is evened out with the one before"
    assert losses(training_set, made, None, Stored(wanted), world=2) == pytest.approx(on_the_fly, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"crop_scale": (0.2, 0.4)}, "crop_left"),
        ({"cutmix": False}, "partner"),
        ({"shuffle": False}, "swap_columns"),
    ],
)
def test_labels_of_other_views_are_refused(tmp_path: Path, changes: dict[str, Any], column: str) -> None:
    made, training_set = protocol(1), noise_set(24, 10)
    wanted = stored(label_set(tmp_path, 24, made, Kept(10)), training_set, teacher(10))
    with pytest.raises(UserError, match=rf"000000\.parquet: epoch 0, step 0: {column} is not what the seed gives"):
        losses(training_set, replace(made, **changes), None, Stored(wanted))


def test_labels_of_another_seed_are_refused(tmp_path: Path) -> None:
    made, training_set = protocol(1), noise_set(24, 10)
    wanted = stored(label_set(tmp_path, 24, made, Kept(10), seed=5), training_set, teacher(10))
    with pytest.raises(UserError, match=r"image is not what the seed gives.* run `ddps relabel` anew"):
        losses(training_set, made, None, Stored(wanted))


def test_a_file_that_is_damaged_or_gone_is_named(tmp_path: Path) -> None:
    made, training_set = protocol(1), noise_set(24, 10)
    wanted = stored(label_set(tmp_path, 24, made, Kept(10)), training_set, teacher(10))
    (file,) = files(wanted)
    file.write_bytes(file.read_bytes()[:-100])
    assert (wanted.bytes(), wanted.missing()) == (None, [0])
    with pytest.raises(UserError, match=r"000000\.parquet is damaged \(.*`ddps relabel` makes them again"):
        losses(training_set, made, None, Stored(wanted))
    file.unlink()
    with pytest.raises(UserError, match=r"000000\.parquet is gone: delete "):
        losses(training_set, made, None, Stored(wanted))


@pytest.mark.parametrize("kept", [Kept(10), Kept(10, 3, 20.0)])
def test_a_logit_that_float16_cannot_hold_is_refused(tmp_path: Path, kept: Kept) -> None:
    training_set, guide = noise_set(24, 10), teacher(10)
    with torch.no_grad():
        guide.head.bias[2] = 1e5  # type: ignore[operator,union-attr]
    with pytest.raises(UserError, match=r"a logit of [\d.e+]+, and float16 holds numbers up to 65504"):
        stored(label_set(tmp_path, 24, protocol(1), kept), training_set, guide)
    assert not files(label_set(tmp_path, 24, protocol(1), kept))
