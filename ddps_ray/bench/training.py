"""`ddps bench training`: steps a second of a student's training, beside a plain loop; and images that are kept."""

import io
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Protocol as Interface

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from ddps_ray.bench.measure import folder_of
from ddps_ray.bench.plain import PlainLoop
from ddps_ray.config import Evaluate, Network, Student
from ddps_ray.console import say
from ddps_ray.errors import UserError
from ddps_ray.students import data, networks, protocols
from ddps_ray.students.data import Pictures
from ddps_ray.students.images import PLACE
from ddps_ray.students.protocols import Facts, Protocol
from ddps_ray.students.sets import TrainingSet
from ddps_ray.students.training import Means, Training

_CLASSES, _IPC = 10, 10
_TEACHER = "resnet18"
_SEED = 0
_WARM = 2
_SURE = 100
"""Factor of the weights of the teacher's head: else it would prefer no class, and there would be no loss to compare."""
_ON_CPU = ("convnet4@64", "resnet18@224")
_ON_GPU = (*_ON_CPU, "resnet101@224")
_KEPT_SIZE = 224
_PHOTO = (500, 375)


class _Loop(Interface):
    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Trains for one epoch, and yields the loss of each step."""
        ...


@dataclass(frozen=True)
class Case:
    """A student whose training is measured: by `rded`, on ten mosaics of each of ten classes.

    Attributes:
        arch: Its architecture; its teacher is a ResNet-18.
        size: Side in pixels of the images.
        bfloat16: Whether the networks compute in bfloat16.
    """

    arch: str
    size: int
    bfloat16: bool = False

    @property
    def title(self) -> str:
        """What a line about it begins with."""
        return f"{self.arch}, {self.size} px, {'bfloat16' if self.bfloat16 else 'float32'}"


@dataclass(frozen=True)
class Compared:
    """What two loops have done side by side.

    Attributes:
        ours: Steps a second of the package's.
        plain: Of the plain one.
        ratio: Median, over the rounds, of ours by plain.
        loss: Mean of a step.
        difference: Largest difference of the losses of a step.
    """

    ours: float
    plain: float
    ratio: float
    loss: float
    difference: float


def run(folder: str, students: Sequence[str] | None, rounds: int, steps: int, images: int) -> None:
    """Measures both loops for each student, and what decoded images cost the second time.

    Prints a line for each student and precision: steps a second of both loops, their ratio, peak memory of each.

    Args:
        folder: Folder to make; it is deleted again.
        students: `<architecture>@<pixels>`, each; None takes those that this machine can train in minutes.
        rounds: Turns of each loop; the two take turns, so that what disturbs the machine hits both.
        steps: Steps in a turn.
        images: Validation images that are decoded.

    Raises:
        UserError: The folder is there already, or cannot be made; or a student is none.
    """
    gpu = torch.cuda.is_available()
    pairs = [_parsed(each) for each in students or (_ON_GPU if gpu else _ON_CPU)]
    with folder_of(folder) as place:
        where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
        say(f"bench: {rounds} turns of {steps} steps for each loop, teacher {_TEACHER}, on {where}")
        for arch, size in pairs:
            for bfloat16 in (True, False) if gpu else (False,):
                _report(Case(arch, size, bfloat16), rounds, steps)
        _keep(place, images)


def compare(case: Case, rounds: int, steps: int) -> Compared:
    """Lets the two loops take turns; what each does first, when a network is still being tuned, does not count."""
    ours, plain = (_endless(make(case)) for make in (_ours, _plain))
    pairs = [(_turn(ours, _WARM), _turn(plain, _WARM))]
    for number in range(rounds):
        if number % 2:
            later = _turn(plain, steps)
            pairs.append((_turn(ours, steps), later))
        else:
            pairs.append((_turn(ours, steps), _turn(plain, steps)))
    seconds = [(mine.seconds, other.seconds) for mine, other in pairs[1:]]
    losses_2N = torch.cat([torch.stack([mine.losses_N, other.losses_N]) for mine, other in pairs], 1)
    difference_N = (losses_2N[0] - losses_2N[1]).abs()
    done = rounds * steps
    return Compared(
        done / sum(mine for mine, _ in seconds),
        done / sum(other for _, other in seconds),
        median(other / mine for mine, other in seconds),
        losses_2N[0].mean().item(),
        difference_N.max().item(),
    )


@dataclass(frozen=True)
class _Turn:
    seconds: float
    losses_N: Tensor


def _turn(losses: Iterator[Tensor], steps: int) -> _Turn:
    _wait()
    begun = time.perf_counter()
    found = list(islice(losses, steps))
    _wait()
    return _Turn(time.perf_counter() - begun, torch.stack(found).double().cpu())


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _endless(loop: _Loop) -> Iterator[Tensor]:
    return (loss for epoch in count() for loss in loop.losses(epoch))


def _ours(case: Case) -> Training:
    images_NCHW = _mosaics(case)
    labels_N = torch.arange(_CLASSES).repeat_interleave(_IPC)
    names = [str(number) for number in range(len(labels_N))]
    rows = pa.table({"image_id": names, "uri": names, "class_id": [str(label) for label in labels_N.tolist()]})
    pictures = Pictures.of(images_NCHW, labels_N, rows).on(_device())
    student, teacher = _networks(case)
    means = Means(case.size, case.bfloat16)
    return Training(student, teacher, TrainingSet(pictures, mosaic=True), _protocol(case), _SEED, means)


def _plain(case: Case) -> PlainLoop:
    student, teacher = _networks(case)
    images_NCHW = _mosaics(case).to(_device())
    return PlainLoop(student, teacher, images_NCHW, _protocol(case), _SEED, case.bfloat16)


_LOOPS: Mapping[str, Callable[[Case], _Loop]] = {"ours": _ours, "plain": _plain}


def _mosaics(case: Case) -> Tensor:
    draws = torch.Generator().manual_seed(_SEED)
    shape = (_CLASSES * _IPC, 3, case.size, case.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)


def _networks(case: Case) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(_SEED)
    student = networks.build(Student(arch=case.arch), _CLASSES, case.size)
    teacher = networks.build(Network(arch=_TEACHER), _CLASSES, case.size)
    with torch.no_grad():
        teacher.fc.weight.mul_(_SURE)  # type: ignore[union-attr,operator]
    return student.to(_device()), teacher.to(_device())


def _protocol(case: Case) -> Protocol:
    facts = Facts(_IPC, _CLASSES, _CLASSES * _IPC, True, case.size, "imagefolder", _TEACHER)
    return protocols.resolve("rded", Evaluate(), facts, Student(arch=case.arch))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _parsed(student: str) -> tuple[str, int]:
    arch, _, size = student.rpartition("@")
    if not arch or not size.isdecimal() or not int(size):
        raise UserError(f"--students: {student!r} is not <architecture>@<pixels>, such as resnet18@224")
    networks.check(Student(arch=arch), _CLASSES, int(size))
    return arch, int(size)


def _report(case: Case, rounds: int, steps: int) -> None:
    found = compare(case, rounds, steps)
    mine, other = (_peak(name, case) / 1e6 for name in _LOOPS)
    say(
        f"{case.title.ljust(26)} ours {found.ours:7.2f} steps/s, {mine:6.0f} MB   plain {found.plain:7.2f} steps/s, "
        f"{other:6.0f} MB   ratio {found.ratio:.3f}   loss {found.loss:.2f} ± {found.difference:.0e}"
    )


def _peak(loop: str, case: Case) -> int:
    """Most bytes that a loop needs, in a process of its own: on the GPU, or of the process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_train_alone, loop, case).result()


def _train_alone(loop: str, case: Case) -> int:
    _turn(_endless(_LOOPS[loop](case)), _WARM)
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _keep(place: Path, count: int) -> None:
    """Loads validation images twice: the second time from the node's cache."""
    rows = _photos(place / "val", count)
    before = os.environ.get(PLACE)
    os.environ[PLACE] = str(place / "cache")
    try:
        fit = data.validation_fit(_KEPT_SIZE)
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            Pictures(rows, ["0"], fit, _KEPT_SIZE, transform=repr(fit))
            seconds.append(time.perf_counter() - begun)
    finally:
        os.environ.pop(PLACE)
        if before is not None:
            os.environ[PLACE] = before
    first, again = (f"{each:.3f} s" for each in seconds)
    say(f"{count} validation images at {_KEPT_SIZE} px: decoded in {first}, loaded again from the cache in {again}")


def _photos(folder: Path, count: int) -> pa.Table:
    """Hard links to one JPEG of a photograph's size."""
    folder.mkdir()
    draws = np.random.default_rng(_SEED)
    small = Image.fromarray(draws.integers(0, 256, (60, 80, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize(_PHOTO, Image.Resampling.BICUBIC).save(buffer, "JPEG")
    first = folder / "0.jpg"
    first.write_bytes(buffer.getvalue())
    for number in range(1, count):
        (folder / f"{number}.jpg").hardlink_to(first)
    uris = [str(folder / f"{number}.jpg") for number in range(count)]
    return pa.table({"image_id": uris, "uri": uris, "class_id": ["0"] * count})
