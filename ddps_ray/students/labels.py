"""Soft labels stored ahead: a teacher's logits of every batch of a training, beside what was drawn for the batch.

They derive from set, teacher, views and seed, not from the student, so that students share them. Nothing of them is
compressed that depends on the teacher, which is why their bytes are known before there are any.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from ddps_ray import schemas, storage
from ddps_ray.config import Labels
from ddps_ray.errors import UserError, first_line
from ddps_ray.students.protocols import Protocol
from ddps_ray.students.sets import TrainingSet
from ddps_ray.students.views import View, Views

FOLDER = "labels"
"""Folder of the run directory that they go to."""

DESCRIPTION_FILE = "labels.json"
"""Beside the files of one training: what they are; written last, as it proves the rest."""

VIEWS = ("epochs", "batch", "cutmix", "crop_scale", "shuffle", "colour")
"""Settings of a protocol that decide what networks see."""

ROWS, _BYTES = 1 << 14, 1 << 25
"""Most images, and bytes, in a file, which is what a kill costs, and what a training holds in memory."""
_PART = 256
_AS_THEY_ARE = "logits.list.element"
_UNTOLD = "none"


@dataclass(frozen=True)
class Kept:
    """What is kept of an image's logits.

    Attributes:
        classes: K, how many there are.
        top: How many are kept, the highest, fewer than K; None for all. The others then have one logit in common.
        temperature: At which that is their mean: the softmax at this temperature gives the kept classes what it gives
            them in full, and the others the same together. None for the plain mean.
    """

    classes: int
    top: int | None = None
    temperature: float | None = None

    @property
    def schema(self) -> pa.Schema:
        """Of the files."""
        return schemas.labels(self.classes, self.top)

    @property
    def row_bytes(self) -> int:
        """Bytes of an image's logits, about."""
        return 2 * self.classes if self.top is None else 4 * self.top + 4

    def columns(self, logits_NK: Tensor) -> dict[str, pa.Array]:
        """The columns of some images.

        Raises:
            UserError: A logit is too large for float16, or is no number.
        """
        logits_NK = logits_NK.float().cpu()
        if self.top is None:
            return {"logits": _lists(_halves(logits_NK))}
        top_NM, classes_NM = logits_NK.topk(self.top, 1)
        number = np.dtype(self.schema.field("classes").type.value_type.to_pandas_dtype())
        rest_N = self._common(logits_NK.scatter(1, classes_NM, -torch.inf))
        return {
            "classes": _lists(classes_NM.numpy().astype(number)),
            "logits": _lists(_halves(top_NM)),
            "rest": pa.array(rest_N.numpy()),
        }

    def logits(self, rows: pa.Table) -> Tensor:
        """The logits that a student is given, float32 of shape N×K."""
        kept_NM = torch.from_numpy(_flat(rows["logits"]).astype(np.float32)).view(len(rows), -1)
        if self.top is None:
            return kept_NM
        rest_N = torch.from_numpy(rows["rest"].to_numpy().astype(np.float32))
        classes_NM = torch.from_numpy(_flat(rows["classes"]).astype(np.int64)).view(len(rows), -1)
        return rest_N[:, None].expand(-1, self.classes).scatter(1, classes_NM, kept_NM)

    def _common(self, others_NK: Tensor) -> Tensor:
        """What stands for all logits that are not -inf."""
        count = self.classes - (self.top or 0)
        if self.temperature is None:
            return others_NK.masked_fill(others_NK.isinf(), 0).sum(1) / count
        return self.temperature * ((others_NK / self.temperature).logsumexp(1) - float(np.log(count)))


def kept_of(settings: Labels, classes: int, protocol: Protocol) -> Kept:
    """What is kept of the logits for a protocol; all of them, where `top` is no fewer than the classes."""
    if settings.top is None or settings.top >= classes:
        return Kept(classes)
    return Kept(classes, settings.top, protocol.temperature if protocol.loss == "kl" else None)


@dataclass(frozen=True)
class LabelSet:
    """The labels of a training.

    Attributes:
        uri: Its folder.
        images: Images of the set.
        protocol: How it is trained; what decides the views counts.
        seed: Its seed.
        size: Side in pixels of the set's images, and of what networks see.
        kept: What is kept of the logits.
    """

    uri: str
    images: int
    protocol: Protocol
    seed: int
    size: int
    kept: Kept

    @cached_property
    def views(self) -> Views:
        """The views that they are of."""
        return Views(self.protocol, self.seed, self.size)

    @cached_property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.views.chunks(self.images, 0))

    @property
    def rows(self) -> int:
        """Images in all batches of all epochs."""
        return self.protocol.epochs * sum(map(len, self.views.chunks(self.images, 0)))

    @property
    def files(self) -> int:
        """Number of files."""
        return -(-self.steps * self.protocol.epochs // steps_per_file(self.protocol.batch, self.kept))

    def span(self, number: int) -> tuple[int, int]:
        """First batch of a file, counted over all epochs, and the one after its last."""
        steps = steps_per_file(self.protocol.batch, self.kept)
        return number * steps, min((number + 1) * steps, self.steps * self.protocol.epochs)

    def file(self, number: int) -> str:
        """URI of a file."""
        return storage.join(self.uri, _name(number))

    def missing(self) -> list[int]:
        """Numbers of the files that are not there, or not of the size that they had when all were."""
        there, sizes = self._there(), self._recorded()
        names = map(_name, range(self.files))
        return [
            number
            for number, name in enumerate(names)
            if name not in there or there[name] != sizes.get(name, there[name])
        ]

    def finish(self, about: dict[str, Any]) -> None:
        """Writes what they are, with the bytes of each file, now that all are there."""
        there = self._there()
        files = {_name(number): there[_name(number)] for number in range(self.files)}
        described = about | {"files": files, "bytes": sum(files.values())}
        storage.write_json(storage.join(self.uri, DESCRIPTION_FILE), described)

    def bytes(self) -> int | None:
        """Bytes of their files; None where they are not whole."""
        sizes = self._recorded()
        whole = len(sizes) == self.files and not self.missing()
        return sum(sizes.values()) if whole else None

    def _recorded(self) -> dict[str, int]:
        """The bytes of each file as they were when all were there; empty if that was never so."""
        uri = storage.join(self.uri, DESCRIPTION_FILE)
        if not storage.exists(uri):
            return {}
        try:
            return {str(name): int(size) for name, size in json.loads(storage.read_bytes(uri))["files"].items()}
        except (ValueError, KeyError, AttributeError, TypeError):
            return {}

    def planned(self) -> int:
        """Bytes that their files will have."""
        shape = (self.images, self.protocol, self.size, self.kept)
        ends = self.span(0), self.span(self.files - 1)
        first, last = (_planned(*shape, *end) for end in ends)
        return (self.files - 1) * first + last

    def _there(self) -> dict[str, int]:
        return {info.base_name: info.size for info in storage.list_files(self.uri, recursive=False)}


def steps_per_file(batch: int, kept: Kept) -> int:
    """Batches in a file."""
    return max(1, min(ROWS, _BYTES // kept.row_bytes) // batch)


@torch.no_grad()
def write(
    labels: LabelSet,
    training_set: TrainingSet,
    teacher: nn.Module,
    device: torch.device,
    numbers: Sequence[int],
    bfloat16: bool = False,
) -> Iterator[int]:
    """Writes some of a training's files, one after the other, and yields the number of images in each.

    Args:
        labels: Where they go, and of which views they are.
        training_set: The set.
        teacher: In eval mode, on the device.
        device: Where to compute.
        numbers: Of the files, ascending.
        bfloat16: Whether the teacher computes in bfloat16.

    Raises:
        UserError: A logit is too large for float16, or is no number.
    """
    teacher.eval()
    for first, last in _runs(numbers):
        parts: list[pa.Table] = []
        number = first
        for step, rows in _labelled(labels, training_set, teacher, device, labels.span(first)[0], bfloat16):
            parts.append(rows)
            if step + 1 == labels.span(number)[1]:
                whole = pa.concat_tables(parts).combine_chunks()
                storage.write_bytes(labels.file(number), encode(whole, labels.kept))
                yield len(whole)
                parts, number = [], number + 1
            if number > last:
                break


def encode(rows: pa.Table, kept: Kept) -> bytes:
    """A file of these rows: all compressed but the logits."""
    schemas.check(rows, kept.schema)
    packed = [name for name in rows.column_names if name not in ("logits", "rest", "classes")]
    codecs = dict.fromkeys(packed, "zstd") | {"rest": _UNTOLD, "classes.list.element": _UNTOLD, _AS_THEY_ARE: _UNTOLD}
    columns = {_path(name, rows.schema) for name in rows.column_names}
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression={name: codec for name, codec in codecs.items() if name in columns},
        use_dictionary=[*packed, "classes.list.element"],
        write_statistics=packed,
    )
    return bytes(sink.getvalue().to_pybytes())


class Stored:
    """The labels of a training, while it lasts: one file is in memory, and the next is on its way."""

    def __init__(self, labels: LabelSet) -> None:
        """Begins at any batch."""
        self._labels, self._ahead = labels, ThreadPoolExecutor(1)
        self._coming: dict[int, Future[pa.Table]] = {}
        self._number, self._rows = -1, labels.kept.schema.empty_table()
        self._starts: dict[int, tuple[int, int]] = {}

    def logits(self, epoch: int, step: int, index_N: Tensor, view: View) -> Tensor:
        """Logits of a batch, of shape N×K.

        Args:
            epoch: Number of the epoch.
            step: Number of the batch in it.
            index_N: Index of each of its images.
            view: What was drawn for it.

        Raises:
            UserError: They are of other views than this one; or the file is damaged or gone.
        """
        labels = self._labels
        at = epoch * labels.steps + step
        number = at // steps_per_file(labels.protocol.batch, labels.kept)
        if number != self._number:
            self._go_to(number)
        rows = self._rows.slice(*self._starts.get(at, (0, 0)))
        wanted = _described(epoch, step, index_N, view)
        if differing := [name for name, values in wanted.items() if not rows[name].combine_chunks().equals(values)]:
            raise UserError(
                f"{labels.file(number)}: epoch {epoch}, step {step}: {differing[0]} is not what the seed gives: the "
                f"labels are of other views of the images. Delete {labels.uri}, and run `ddps relabel` anew"
            )
        return labels.kept.logits(rows)

    def _go_to(self, number: int) -> None:
        coming = self._coming.pop(number, None)
        self._rows = coming.result() if coming else _read(self._labels, number)
        if number + 1 < self._labels.files:
            self._coming = {number + 1: self._ahead.submit(_read, self._labels, number + 1)}
        place = self._rows["epoch"].to_numpy() * self._labels.steps + self._rows["step"].to_numpy()
        steps, starts, counts = np.unique(place, return_index=True, return_counts=True)
        self._starts = dict(zip(steps.tolist(), zip(starts.tolist(), counts.tolist(), strict=True), strict=True))
        self._number = number


def _labelled(
    labels: LabelSet, training_set: TrainingSet, teacher: nn.Module, device: torch.device, first: int, bfloat16: bool
) -> Iterator[tuple[int, pa.Table]]:
    """Yields the rows of each batch from one on, with its number over all epochs."""
    views, steps = labels.views, labels.steps
    for epoch in range(first // steps, labels.protocol.epochs):
        begun = max(first - epoch * steps, 0)
        for step, shown in enumerate(views.epoch(training_set, epoch, device, first=begun), begun):
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits_NK = torch.cat([teacher(part_NCHW) for part_NCHW in shown.images_NCHW.split(_PART)])
            described = _described(epoch, step, shown.index_N, shown.view)
            yield epoch * steps + step, _table(described | labels.kept.columns(logits_NK), labels.kept)
            begun = step + 1
        if begun < steps:
            raise UserError(f"in epoch {epoch} none of the images of a batch can be decoded")


def _described(epoch: int, step: int, index_N: Tensor, view: View) -> dict[str, pa.Array]:
    """A batch's columns besides the logits."""
    draws, cut, count = view.draws, view.cut, len(index_N)
    swaps = [None, None] if draws.swaps_2N is None else list(draws.swaps_2N.numpy())
    partners = None if cut is None else index_N[cut.partners_N].numpy()
    box = (None,) * 4 if cut is None else cut.box
    given: dict[str, Any] = {"epoch": epoch, "step": step, "image": index_N.numpy()}
    given |= dict(zip(("swap_columns", "swap_rows"), swaps, strict=True))
    given |= dict(zip(("crop_left", "crop_top", "crop_width", "crop_height"), draws.boxes_N4.T.numpy(), strict=True))
    given |= {"flip": draws.flips_N.numpy(), "partner": partners}
    given |= dict(zip(("cut_left", "cut_top", "cut_right", "cut_bottom"), box, strict=True))
    given |= {"kept": None if cut is None else cut.kept}
    kinds = schemas.labels(1, None)
    return {name: _column(value, kinds.field(name).type, count) for name, value in given.items()}


def _table(columns: dict[str, pa.Array], kept: Kept) -> pa.Table:
    return schemas.check(pa.table([columns[name] for name in kept.schema.names], schema=kept.schema), kept.schema)


def _column(value: Any, kind: pa.DataType, count: int) -> pa.Array:
    if isinstance(value, np.ndarray):
        return pa.array(value).cast(kind)
    return pa.nulls(count, kind) if value is None else pa.repeat(pa.scalar(value, kind), count)


def _read(labels: LabelSet, number: int) -> pa.Table:
    uri = labels.file(number)
    again = f"delete {labels.uri}, and `ddps relabel` makes them again"
    if not storage.exists(uri):
        raise UserError(f"{uri} is gone: {again}")
    data = storage.read_bytes(uri)
    try:
        return schemas.check(pq.read_table(pa.BufferReader(data)), labels.kept.schema)
    except (OSError, pa.ArrowInvalid, ValueError) as error:  # of bytes in memory, not of the store
        raise UserError(f"{uri} is damaged ({first_line(error)}): {again}") from error


@lru_cache(maxsize=256)
def _planned(images: int, protocol: Protocol, size: int, kept: Kept, first: int, last: int) -> int:
    """Bytes of a file, by writing one of random logits into memory."""
    labels = LabelSet("", images, protocol, 0, size, kept)
    noise, views, parts = torch.Generator().manual_seed(0), labels.views, []
    for epoch in range(first // labels.steps, -(-last // labels.steps)):
        draw = views.drawing(epoch, size)
        for step, chunk_N in enumerate(views.chunks(images, epoch)):
            view = draw(len(chunk_N))
            if first <= epoch * labels.steps + step < last:
                random_NK = torch.randn(len(chunk_N), kept.classes, generator=noise)
                described = _described(epoch, step, chunk_N, view)
                parts.append(_table(described | kept.columns(random_NK), kept))
    return len(encode(pa.concat_tables(parts).combine_chunks(), kept))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    begun = None
    for number, after in zip(numbers, [*numbers[1:], None], strict=True):
        begun = number if begun is None else begun
        if after != number + 1:
            yield begun, number
            begun = None


def _halves(logits_NM: Tensor) -> np.ndarray:
    found: np.ndarray = logits_NM.half().numpy()
    if not np.isfinite(found).all():
        raise UserError(
            f"the teacher gives a logit of {logits_NM.abs().max().item():g}, and float16 holds numbers up to 65504: "
            "students can learn from it on the fly alone (evaluate.labels: null)"
        )
    return found


def _lists(values_NM: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NM.reshape(-1)), values_NM.shape[1])


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values


def _path(name: str, schema: pa.Schema) -> str:
    return f"{name}.list.element" if pa.types.is_fixed_size_list(schema.field(name).type) else name


def _name(number: int) -> str:
    return f"{number:06d}.parquet"
