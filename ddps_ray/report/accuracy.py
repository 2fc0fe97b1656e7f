"""What the students reached: mean and standard deviation over seeds, for each set, IPC and student."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ddps_ray.config import WHOLE
from ddps_ray.report import tables, variants
from ddps_ray.storage import Run

RANDOM = "random"
"""The selector, and the usual name, of the set that others are compared to."""

_GROUP = (
    "student",
    "teacher",
    "protocol",
    "selector",
    "set_name",
    "ipc",
    "images",
    "epochs",
    "settings",
    "dtype",
    "parts",
)
_DIGESTS = ("class_digest", "set_digest")
_ORDER = ["student", "teacher", "ipc", "set_name", "epochs", "seed"]
_VALUES = ("seed", "accuracy_last", "accuracy_best", "accuracy_teacher", "set_bytes", "label_bytes")
_FOLLOWS = ("name", "validations")
"""Settings that say the protocol again, and what follows from the epochs."""

_FIRST_PROTOCOL = "rded"
"""That of rows from before there were several."""


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
        protocol: Name of the preset that it was trained by.
        selector: How the set was selected.
        set_name: The set.
        ipc: Images per class.
        images: Distilled images trained on.
        epochs: Epochs of training.
        settings: JSON of all else that the number depends on: what the protocol came to, with the number of classes.
        dtype: Of the networks' computation; None in rows of an earlier layout.
        parts: Into which each worker's share of a batch was cut: BatchNorm takes the statistics of a part.
        class_digest: Of its classes; None in rows of an earlier layout.
        set_digest: Of the set's metadata; None in rows of an earlier layout.
        set_bytes: Of the set's image files; None in rows of an earlier layout.
        label_bytes: Of the soft labels that were stored for a student; None without.
        last_by_seed: Top-1 accuracy of each seed's student after the last epoch: the result.
        best_by_seed: That of each seed's best epoch, which is picked on the validation split itself.
        teacher_accuracy: The teacher's, 0 to 1; 0 or NaN where there was none.
    """

    student: str
    teacher: str
    protocol: str
    selector: str
    set_name: str
    ipc: int
    images: int
    epochs: int
    settings: str
    dtype: str | None
    parts: int
    class_digest: str | None
    set_digest: str | None
    set_bytes: int | None
    label_bytes: int | None
    last_by_seed: Mapping[int, float]
    best_by_seed: Mapping[int, float]
    teacher_accuracy: float

    @property
    def seeds(self) -> int:
        """How many students, one a seed."""
        return len(self.last_by_seed)

    @property
    def last(self) -> Spread:
        """The result over the seeds."""
        return spread([*self.last_by_seed.values()])

    @property
    def best(self) -> Spread:
        """The best epochs' over the seeds."""
        return spread([*self.best_by_seed.values()])

    @property
    def is_whole(self) -> bool:
        """Whether it is that of the whole training set, without distillation."""
        return self.set_name == WHOLE

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher was there and measured: labels can be hard ones."""
        return self.teacher_accuracy > 0

    @property
    def total_bytes(self) -> int | None:
        """Bytes of images and stored labels: all that a student is trained on; None where the images' are not known."""
        return None if self.set_bytes is None else self.set_bytes + (self.label_bytes or 0)

    @property
    def terms(self) -> dict[str, str]:
        """All that it depends on besides set, IPC, student, teacher, protocol and seed, as texts by dotted keys."""
        own = {name: getattr(self, name) for name in ("selector", "images", "epochs", "dtype", "parts", *_DIGESTS)}
        known = {name: value for name, value in own.items() if value is not None}
        terms = variants.flat(json.loads(self.settings) | known)
        return {key: value for key, value in terms.items() if key not in _FOLLOWS}

    @property
    def classes(self) -> int:
        """How many classes it has."""
        classes = json.loads(self.settings).get("classes")
        return self.images // self.ipc if classes is None else int(classes)

    @property
    def ipc_label(self) -> str:
        """The IPC in words."""
        return "all" if self.is_whole else str(self.ipc)

    def is_like(self, other: "Accuracy") -> bool:
        """Whether the two differ in how the set was made alone.

        They have the same classes, IPC, student, teacher, protocol and settings, and their classes are known.
        """
        return self.class_digest is not None and self._same() == other._same()

    def _same(self) -> tuple[Any, ...]:
        return (
            *(self.class_digest, self.ipc, self.student, self.teacher),
            *(self.protocol, self.epochs, self.settings, self.dtype, self.parts),
        )


def best(found: Sequence[Accuracy]) -> Accuracy | None:
    """The highest result of a distilled set among those on the most classes: a few classes are easily told apart."""
    found = [each for each in found if not each.is_whole]
    most = max((each.classes for each in found), default=0)
    return max((each for each in found if each.classes == most), key=lambda each: each.last.mean, default=None)


def results(run: Run) -> list[Accuracy]:
    """Reads `evaluation/` and summarises the seeds; by student, IPC, set; empty if nothing was evaluated.

    Rows of other settings, of another set under the same name or of other classes are another result.
    """
    rows = tables.read(run, "evaluation", [*_GROUP, *_VALUES, *_DIGESTS], _ORDER)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist() if rows is not None else []:
        row["protocol"] = row["protocol"] or _FIRST_PROTOCOL
        row["parts"] = row["parts"] or 1
        groups[tuple(row[name] for name in _GROUP)].append(row)
    return [
        _accuracy(dict(zip(_GROUP, key, strict=True)) | digests, own)
        for key, rows_of_key in groups.items()
        for digests, own in _by_digests(rows_of_key)
    ]


def _accuracy(about: dict[str, Any], rows: list[dict[str, Any]]) -> Accuracy:
    rows = sorted(
        rows, key=lambda row: (row["seed"], row[_DIGESTS[0]] is not None)
    )  # a seed counts once, newer rows win
    return Accuracy(
        **about,
        set_bytes=_known("set_bytes", rows),
        label_bytes=_known("label_bytes", rows),
        last_by_seed={row["seed"]: row["accuracy_last"] for row in rows},
        best_by_seed={row["seed"]: row["accuracy_best"] for row in rows},
        teacher_accuracy=fmean(row["accuracy_teacher"] for row in rows),
    )


def _known(column: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """What the first row says that says anything; None where none does."""
    return next((row[column] for row in rows if row[column] is not None), None)


def _by_digests(rows: list[dict[str, Any]]) -> list[tuple[dict[str, str | None], list[dict[str, Any]]]]:
    """Takes rows apart by their classes, then by what the set was; see `_by`."""
    return [
        ({_DIGESTS[0]: classes, _DIGESTS[1]: made_of}, own)
        for classes, rows_of_classes in _by(_DIGESTS[0], rows)
        for made_of, own in _by(_DIGESTS[1], rows_of_classes)
    ]


def _by(column: str, rows: list[dict[str, Any]]) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """Takes rows apart by a digest; beside a single one, rows of an earlier layout, without it, are its."""
    digests = list(dict.fromkeys(row[column] for row in rows))
    known = [digest for digest in digests if digest is not None]
    if len(known) <= 1:
        return [(known[0] if known else None, rows)]
    return [(digest, [row for row in rows if row[column] == digest]) for digest in digests]


def differing(found: Sequence[Accuracy]) -> list[str]:
    """For each result the settings that tell it from others of its set, IPC, student, teacher and protocol."""
    names = [(each.set_name, each.ipc, each.student, each.teacher, each.protocol) for each in found]
    return variants.apart(names, [each.terms for each in found])


def table(run: Run) -> list[str]:
    """The lines of a plain table: set, IPC, student, accuracy of the last epoch over the seeds; none without rows.

    Protocols are named where there are several, settings where they alone tell two lines apart.
    """
    found = results(run)
    columns: dict[str, list[str]] = {
        "set": [each.set_name for each in found],
        "ipc": [each.ipc_label for each in found],
        "student": [each.student for each in found],
        "protocol": [each.protocol for each in found],
        "accuracy %": [str(each.last) for each in found],
        "seeds": [str(each.seeds) for each in found],
        "images": [str(each.images) for each in found],
        "teacher %": [f"{100 * each.teacher_accuracy:.1f}" if each.has_teacher else "–" for each in found],
        "settings": differing(found),
    }
    if any(each.label_bytes for each in found):
        columns["images and labels"] = [in_bytes(each.total_bytes) for each in found]
    if len(set(columns["protocol"])) == 1:
        del columns["protocol"]
    if not any(columns["settings"]):
        del columns["settings"]
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines if found else []


def in_bytes(number: int | None) -> str:
    """Bytes in words; a dash where they are not known."""
    if number is None:
        return "–"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)
