"""`ddps plan` says what an evaluation takes before it starts, and refuses what fits nowhere."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ddps_ray import cli, manifest, planning_labels, schemas
from ddps_ray.config import Recipe, load
from ddps_ray.errors import UserError
from ddps_ray.planning_evaluation import lines, makespan
from ddps_ray.quantities import si
from ddps_ray.storage import Run

IMAGENET = Path(__file__).resolve().parents[1] / "jobs" / "recipes" / "imagenet1k.yaml"


def _rows(split: str, classes: int, per_class: int, uri: str) -> pa.Table:
    labels = np.repeat(np.arange(classes), per_class)
    names = [f"n{label:08d}" for label in labels]
    columns: dict[str, list[Any]] = {
        "image_id": [f"{split}/{at}" for at in range(len(names))],
        "uri": [uri] * len(names),
    }
    columns |= {"class_id": names, "class_text": names, "label": labels.tolist(), "split": [split] * len(names)}
    return schemas.table(columns, schemas.MANIFEST)


def _index(folder: Path, classes: int, train: int, val: int) -> Run:
    """A run whose data set is indexed; all its images are the same file."""
    image = folder / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    run = Run(str(folder / "run"))
    run.claim("index", {})
    manifest.write(run, "train", _rows("train", classes, train, str(image)))
    manifest.write(run, "val", _rows("val", classes, val, str(image)))
    run.finish("index", {"splits": {"train": classes * train, "val": classes * val}, "layout": "imagenet"})
    return run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the usual size on a disk of a terabyte."""
    monkeypatch.setenv("DDPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDPS_CACHE_GB", raising=False)
    usage = shutil.disk_usage(tmp_path)._replace(total=10**12, free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


def _recipe(run: Run, *settings: str) -> Recipe:
    return load(IMAGENET, [f"run_dir={run.uri}", f"data.root={run.uri}", "evaluate.ipc=[50]", *settings])


def _said(recipe: Recipe, run: Run, gpus: int = 8) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The lines by their names; and those of the table by their first column, as columns."""
    said = list(lines(recipe, run, gpus, 0.35))
    return {name: text for name, text in said if name}, _table([text for name, text in said if not name])


def _table(rows: Sequence[str]) -> dict[str, list[str]]:
    cut = [[part for part in row.split("  ") if part] for row in rows]
    return {row[0].strip(): [part.strip() for part in row[1:]] for row in cut}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """1,000 classes with one training image and 50 validation images each."""
    return _index(tmp_path_factory.mktemp("imagenet"), classes=1000, train=1, val=50)


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """1,000 classes with 60 training images each."""
    return _index(tmp_path_factory.mktemp("sixty"), classes=1000, train=60, val=1)


def test_the_shipped_recipe_at_ipc_50(imagenet: Run) -> None:
    said, table = _said(_recipe(imagenet), imagenet)
    # Two sets, five seeds, two students; 300 epochs of 50,000 / 200 steps.
    assert said["evaluation"] == (
        "20 students to train and test; protocol rded; teacher resnet18; images 50,000; batch 200; steps 75,000"
    )
    assert table["student"] == [
        "cells",
        "memory",
        "L4 (22 GiB)",
        "A100 (39.4 GiB)",
        "A100 (79.1 GiB)",
        "H100 (79.1 GiB)",
    ]
    for student in ("resnet18", "resnet101"):
        assert table[student][0] == "10"
        assert [cell.split(", ")[1] for cell in table[student][2:]] == ["fits"] * 4
    hours = {
        student: [float(cell.split(" h")[0]) for cell in table[student][2:]] for student in table if student[0] == "r"
    }
    assert all(large > small for large, small in zip(hours["resnet101"], hours["resnet18"], strict=True))
    for at, together in enumerate(table["all, on 8 GPUs"]):
        # Ten long ones on eight GPUs: two of them have two, and meanwhile the other six train the ten short ones.
        longest = hours["resnet101"][at]
        assert float(together.removesuffix(" h")) == pytest.approx(2 * longest, abs=0.11)
    # 3 × 224² bytes of each of 50,000 validation images, and of two sets of 50,000.
    assert said["held"] == "7.53 GB of validation and 15.1 GB of sets, decoded, on the disk of each node"
    size = (Path(imagenet.uri).parent / "image.png").stat().st_size
    assert said["read"].startswith(f"{size * 50_000 / 1e6:.3g} MB in 50,000 validation images, by the mean of 64; ")
    assert said["read"].endswith("then 100,000 images of 2 sets; once a node")


def test_a_batch_that_is_too_large_is_cut(imagenet: Run) -> None:
    _, table = _said(_recipe(imagenet, "evaluate.precision=float32", "evaluate.students=[{arch: resnet101}]"), imagenet)
    assert [cell.split(", ")[1] for cell in table["resnet101"][2:]] == ["in 2 parts", "fits", "fits", "fits"]


def test_students_that_share_a_gpu_have_a_part_of_its_memory_and_of_its_speed(imagenet: Run) -> None:
    long = ["evaluate.students=[{arch: resnet18}]", "evaluate.epochs=3000", "evaluate.together=null"]
    alone, quarter = (_said(_recipe(imagenet, *long, *settings), imagenet) for settings in ([], ["evaluate.gpus=0.25"]))
    assert alone[0]["hours"].startswith("for one student on one GPU in bfloat16: ")
    assert quarter[0]["hours"].startswith("for one student on one GPU that 4 share, each at 1/4 of its speed, in ")
    # 4.7 GiB, of a quarter of 22 GiB at least
    assert [cell.split(", ")[1] for cell in quarter[1]["resnet18"][2:]] == ["fits"] * 4
    for once, shared in zip(alone[1]["resnet18"][2:], quarter[1]["resnet18"][2:], strict=True):
        assert float(shared.split(" h")[0]) == pytest.approx(4 * float(once.split(" h")[0]), rel=0.05)
    # Ten students: two rounds on eight GPUs, and one where each has a quarter.
    for once, shared in zip(alone[1]["all, on 8 GPUs"], quarter[1]["all, on 8 GPUs"], strict=True):
        assert float(shared.removesuffix(" h")) == pytest.approx(2 * float(once.removesuffix(" h")), rel=0.05)


def test_what_does_not_fit_into_a_share_is_refused(imagenet: Run) -> None:
    made = _recipe(imagenet, "evaluate.students=[{arch: resnet18}]", "evaluate.gpus=0.01")
    with pytest.raises(UserError, match=r"resnet18 at 224 px needs .* the GPU has 0\.8: .* \(evaluate\.gpus\)$"):
        _said(made, imagenet)


def test_cells_without_a_teacher_are_not_counted_for_each(imagenet: Run) -> None:
    settings = [
        "evaluate.protocols=[rded, hard]",
        "teachers={a: {model: {arch: resnet18}}, b: {model: {arch: resnet50}}}",
        "evaluate.students=[{arch: resnet18}]",
        "evaluate.seeds=[0, 1, 1]",
        "evaluate.sets=[ddps]",
    ]
    said = list(lines(_recipe(imagenet, *settings), imagenet, 8, 0.35))
    assert said[0][1].startswith("6 students to train and test; images 50,000")
    rows = [row.split()[:4] for name, row in said[2:6] if not name]
    assert rows[:3] == [
        ["resnet18", "rded", "resnet18", "200"],
        ["resnet18", "rded", "resnet50", "200"],
        ["resnet18", "hard", "none", "128"],
    ]


def test_foreign_sets_and_the_whole_split(imagenet: Run) -> None:
    settings = ["evaluate.foreign={d4m: {path: /nowhere}}", "evaluate.whole=true", "evaluate.sets=[ddps, d4m]"]
    said, _ = _said(_recipe(imagenet, *settings, "evaluate.students=[{arch: resnet18}]"), imagenet)
    assert (
        said["not in it"]
        == "foreign sets, whose images are counted when they are read: d4m, nor whole for classes that they alone have"
    )
    assert said["read"].endswith("then 51,000 images of 2 sets; once a node")


def test_the_whole_split_is_that_of_the_classes_of_each_set(sixty: Run) -> None:
    some, others = ([f"n{label:08d}" for label in range(first, first + 10)] for first in (0, 10))
    own = f"a: {{ipc: [10], classes: [{', '.join(some)}]}}, b: {{ipc: [10], classes: [{', '.join(others)}]}}"
    own += f", c: {{ipc: [10], classes: [{', '.join(some)}], selector: random}}"
    settings = [f"distill.sets={{{own}}}"]
    settings += [
        "evaluate.ipc=[10]",
        "evaluate.whole=true",
        "evaluate.students=[{arch: resnet18}]",
        "evaluate.sets=null",
    ]
    said = list(lines(_recipe(sixty, *settings), sixty, 8, 0.35))
    # Three sets of 100 images in batches of 50; 600 images in batches of 100, for two choices of classes; five seeds.
    assert said[0][1] == "25 students to train and test; protocol rded; teacher resnet18"
    assert [row.split()[1:5] for name, row in said[2:4] if not name] == [
        ["100", "50", "600", "15"],
        ["600", "100", "1,800", "10"],
    ]
    assert dict(said)["read"].endswith("then 1,500 images of 5 sets; once a node")


def test_a_split_that_the_cache_cannot_hold_is_decoded_in_every_epoch(
    sixty: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPS_CACHE_GB", "1")
    settings = ("evaluate.whole=true", "evaluate.students=[{arch: resnet18}]", "evaluate.sets=[ddps]")
    said = dict(lines(_recipe(sixty, *settings), sixty, 8, 0.35))
    # 3 × 224² bytes each of 60,000 images, and of 50,000: these may take half of the memory, those 2 GiB.
    assert re.fullmatch(
        r"9\.03 GB of whole, decoded, of 1000 classes: \S+: more than DDPS_CACHE_GB, which is 1: "
        "each worker decodes 60,000 images in every epoch",
        said["not held"],
    )
    assert re.fullmatch(
        r"7\.53 GB of ddps ipc=50, decoded, of 1000 classes: \S+: more than \S+, which is 1: each process holds them",
        said["in memory"],
    )
    assert said["read"].endswith("then 50,000 images of 1 sets; once a node if held there")
    assert said["held"] == "151 MB of validation and 0 B of sets, decoded, on the disk of each node"
    rates = re.fullmatch(
        r"for the hours above each GPU needs, in images/s, (\S+) on L4 \(22 GiB\), (\S+) on A100 \(39\.4 GiB\), "
        r"(\S+) on A100 \(79\.1 GiB\), (\S+) on H100 \(79\.1 GiB\); a core decodes about (\S+), measured here",
        said["decoding"],
    )
    assert rates is not None
    l4, *_, h100, core = (float(rate.replace(",", "")) for rate in rates.groups())
    whole = [row for row in lines(_recipe(sixty, *settings), sixty, 8, 0.35) if "60,000" in row[1] and not row[0]]
    hours = float(whole[0][1].split(" GiB")[1].split(" h")[0])
    assert l4 == pytest.approx(60_000 * 300 / 3600 / hours, rel=0.02)
    assert h100 > l4
    assert core > 0
    monkeypatch.setenv("DDPS_CACHE_GB", "10")
    said = dict(lines(_recipe(sixty, *settings), sixty, 8, 0.35))
    assert said["held"] == "151 MB of validation and 16.6 GB of sets, decoded, on the disk of each node"
    assert not {"not held", "in memory", "decoding"} & set(said)


def test_nothing_is_said_where_nothing_is_tested(imagenet: Run) -> None:
    assert not list(lines(_recipe(imagenet, "data.val=null"), imagenet, 8, 0.35))


def test_fewer_gpus_than_a_student_takes(imagenet: Run) -> None:
    with pytest.raises(UserError, match=r"^--gpus 2: evaluate\.workers lets each student have 4: "):
        list(lines(_recipe(imagenet, "evaluate.workers=4"), imagenet, 2, 0.35))


def test_workers_share_the_hours_of_a_student(imagenet: Run) -> None:
    def planned(workers: int) -> tuple[str, float, float]:
        """What the hours are of; those of a student on an L4; and those until 10 are trained on 8."""
        settings = ("evaluate.students=[{arch: resnet18}]", f"evaluate.workers={workers}")
        said, table = _said(_recipe(imagenet, *settings), imagenet)
        one, together = table["resnet18"][-4].split(" h")[0], table["all, on 8 GPUs"][0].removesuffix(" h")
        return said["hours"].partition(":")[0], float(one), float(together)

    alone, two, eight = (planned(workers) for workers in (1, 2, 8))
    assert alone[0] == "for one student on one GPU in bfloat16"
    assert two[0] == "for one student on 2 GPUs, of which one validates, in bfloat16"
    # Ten students of one GPU each are two rounds on eight; of two GPUs each three on four places; of eight ten on one.
    assert alone[2] == pytest.approx(2 * alone[1], abs=0.11)
    assert two[1] == pytest.approx(alone[1] / 2, rel=0.05)
    assert two[2] == pytest.approx(3 * two[1], abs=0.2)
    assert eight[2] == pytest.approx(10 * eight[1], abs=0.6)
    assert eight[2] < 1.5 * alone[2], "all GPUs are busy however many a student has"


def test_the_longest_go_first() -> None:
    assert makespan([1, 1, 1, 3], 2) == 3
    assert makespan([2, 2, 2], 2) == 4
    assert makespan([], 2) == 0


def test_a_student_that_fits_nowhere_is_refused_on_the_command_line(
    tmp_path: Path, tiny_sd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _index(tmp_path, classes=2, train=4, val=1)
    file = tmp_path / "run.yaml"
    file.write_text(
        f"run_dir: {run.uri}\ndata: {{root: {tmp_path}}}\nmodel: {{path: {tiny_sd}}}\n"
        "score: {size: 64, patch: 32, pairs: 3, judge: skip}\ndistill: {sets: {a: {ipc: [1]}}}\n"
        "teacher: {weights: trained, model: {arch: convnet3}}\n"
        "evaluate: {size: 64, students: [{arch: convnet3}, {arch: convnet4, width: 32768}]}\n"
    )
    assert cli.main(["plan", "--config", str(file), "--gpus", "3"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("ddps: evaluate.students: convnet4-w32768 at 64 px needs ")
    assert "GiB for 2 images at a time, and the GPU has 79.1: choose" in told.err
    table = _table([line[13:] for line in told.out.splitlines() if line.startswith(" " * 13)])
    assert table["convnet4-w32768"][2:] == ["does not fit"] * 4
    assert table["all, on 3 GPUs"] == ["not all fit"] * 4
    assert cli.main(["plan", "--config", str(file), "--set", "evaluate.students=[{arch: convnet3}]"]) == 0
    assert cli.main(["plan", "--config", str(file), "--gpus", "0"]) == 2
    assert capsys.readouterr().err == "ddps: --gpus 0: give a number of at least 1\n"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        # 300 epochs of 50,000 images with 1,000 logits of two bytes each.
        (["evaluate.labels={logits: float16}"], 300 * 50_000 * 2000),
        # Ten logits of two bytes, their classes of ten bits, the one of the rest of four bytes.
        (["evaluate.labels={top: 10}"], 300 * 50_000 * (20 + 12.5 + 4)),
    ],
)
def test_the_bytes_of_stored_labels(imagenet: Run, settings: list[str], wanted: float) -> None:
    recipe = _recipe(imagenet, *settings, "evaluate.seeds=[0, 1]")
    head, *rest = [text for _, text in planning_labels.lines(recipe, imagenet, 0.35)]
    (ddps, random) = (kind.labels.planned() for kind in planning_labels.kinds(recipe, imagenet))
    views = 300 * 50_000 * 20  # at most, for crops, flips, partners and boxes
    assert wanted < ddps < wanted + views
    assert ddps == random
    # Two students share them; two sets, two seeds.
    assert head == f"{si(4 * ddps)}B in 4 label sets, a seed each of 2; made by `ddps relabel`"
    assert (
        rest[0] == f"{si(ddps)}B each of ddps ipc=50, resnet18.tv_in1k: 300 epochs of 50,000 images in batches of 200"
    )
    assert rest[2].startswith("of one GPU to make them all: ")


def test_no_teacher_is_asked_where_labels_are_stored(imagenet: Run) -> None:
    hours = []
    for settings in (["evaluate.labels={top: 10}"], []):
        _, table = _said(_recipe(imagenet, *settings), imagenet)
        hours.append([float(cell.split(" h")[0]) for cell in table["resnet18"][2:]])
    assert all(stored < asked for stored, asked in zip(*hours, strict=True))
    assert not list(planning_labels.lines(_recipe(imagenet), imagenet, 0.35))
    hard = _recipe(imagenet, "evaluate.labels={top: 10}", "evaluate.protocols=[hard]")
    assert not list(planning_labels.lines(hard, imagenet, 0.35))
