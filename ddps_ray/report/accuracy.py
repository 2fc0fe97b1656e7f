"""What the students reached: mean and standard deviation over seeds, for each set, IPC and student."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ddps_ray.report import tables
from ddps_ray.storage import Run

_GROUP = ("student", "teacher", "selector", "set_name", "ipc", "images", "epochs")
_ORDER = ["student", "teacher", "ipc", "set_name", "epochs", "seed"]
_VALUES = ("seed", "accuracy_last", "accuracy_best", "accuracy_teacher")


@dataclass(frozen=True)
class Spread:
    """Accuracies of several seeds, 0 to 1.

    Attributes:
        mean: Their mean.
        std: Sample standard deviation (n − 1); None for a single seed.
    """

    mean: float
    std: float | None

    def __str__(self) -> str:
        mean = f"{100 * self.mean:.1f}"
        return mean if self.std is None else f"{mean} ± {100 * self.std:.1f}"


@dataclass(frozen=True)
class Accuracy:
    """One student's result on one distilled set.

    Attributes:
        student: Its architecture.
        teacher: The teacher's.
        selector: How the set was selected.
        set_name: The set.
        ipc: Images per class.
        images: Distilled images trained on.
        epochs: Epochs of training.
        seeds: How many students, one a seed.
        last: Top-1 accuracy after the last epoch: the result.
        best: That of each seed's best epoch, which is picked on the validation split itself.
        teacher_accuracy: The teacher's, 0 to 1.
    """

    student: str
    teacher: str
    selector: str
    set_name: str
    ipc: int
    images: int
    epochs: int
    seeds: int
    last: Spread
    best: Spread
    teacher_accuracy: float


def results(run: Run) -> list[Accuracy]:
    """Reads `evaluation/` and summarises the seeds; by student, IPC, set; empty if nothing was evaluated."""
    rows = tables.read(run, "evaluation", [*_GROUP, *_VALUES], _ORDER)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist() if rows is not None else []:
        groups[tuple(row[name] for name in _GROUP)].append(row)
    return [
        Accuracy(
            **dict(zip(_GROUP, key, strict=True)),
            seeds=len(group),
            last=spread([row["accuracy_last"] for row in group]),
            best=spread([row["accuracy_best"] for row in group]),
            teacher_accuracy=fmean(row["accuracy_teacher"] for row in group),
        )
        for key, group in groups.items()
    ]


def table(run: Run) -> list[str]:
    """The lines of a plain table: set, IPC, student, accuracy of the last epoch over the seeds; none without rows."""
    found = results(run)
    rows = [("set", "ipc", "student", "accuracy %", "seeds", "images", "teacher %")]
    for each in found:
        counts = (str(each.seeds), str(each.images), f"{100 * each.teacher_accuracy:.1f}")
        rows.append((each.set_name, str(each.ipc), each.student, str(each.last), *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines if found else []


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)
