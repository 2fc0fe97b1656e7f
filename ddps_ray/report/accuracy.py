"""What the students reached: mean and standard deviation over seeds, for each set, IPC and student."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ddps_ray.report import tables
from ddps_ray.storage import Run

_GROUP = ("student", "teacher", "selector", "set_name", "ipc", "images", "epochs", "settings")
_CLASSES = "class_digest"
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
        class_digest: Of its classes; None in rows of an earlier layout.
        settings: JSON of all else that the number depends on: the protocol, with the number of classes.
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
    class_digest: str | None
    settings: str
    seeds: int
    last: Spread
    best: Spread
    teacher_accuracy: float

    @property
    def classes(self) -> int:
        """How many classes it has."""
        return int(json.loads(self.settings).get("classes", self.images // self.ipc))

    def is_like(self, other: "Accuracy") -> bool:
        """Whether the two differ in how the set was made alone: same classes, IPC, student, teacher and protocol."""
        return self.class_digest is not None and self._terms() == other._terms()

    def _terms(self) -> tuple[Any, ...]:
        return (self.class_digest, self.ipc, self.student, self.teacher, self.epochs, self.settings)


def best(found: Sequence[Accuracy]) -> Accuracy | None:
    """The highest result among those on the most classes: a few classes are easily told apart."""
    most = max((each.classes for each in found), default=0)
    return max((each for each in found if each.classes == most), key=lambda each: each.last.mean, default=None)


def results(run: Run) -> list[Accuracy]:
    """Reads `evaluation/` and summarises the seeds; by student, IPC, set; empty if nothing was evaluated."""
    rows = tables.read(run, "evaluation", [*_GROUP, *_VALUES, _CLASSES], _ORDER)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist() if rows is not None else []:
        groups[tuple(row[name] for name in _GROUP)].append(row)
    return [
        Accuracy(
            **dict(zip(_GROUP, key, strict=True)),
            class_digest=digest,
            seeds=len(group),
            last=spread([row["accuracy_last"] for row in group]),
            best=spread([row["accuracy_best"] for row in group]),
            teacher_accuracy=fmean(row["accuracy_teacher"] for row in group),
        )
        for key, rows_of_key in groups.items()
        for digest, group in _by_classes(rows_of_key)
    ]


def _by_classes(rows: list[dict[str, Any]]) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """Takes rows apart by their classes; beside a single digest, rows of an earlier layout, without one, are its."""
    digests = list(dict.fromkeys(row[_CLASSES] for row in rows))
    known = [digest for digest in digests if digest is not None]
    if len(known) <= 1:
        return [(known[0] if known else None, rows)]
    return [(digest, [row for row in rows if row[_CLASSES] == digest]) for digest in digests]


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
