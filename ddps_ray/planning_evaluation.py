"""The part of `ddps plan` about evaluation: steps, hours, memory and bytes of every student, before any is trained."""

import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as ds

from ddps_ray import imaging, manifest
from ddps_ray.config import WHOLE, Network, Recipe, Student, Teacher
from ddps_ray.errors import BadImage, UserError
from ddps_ray.gpus import CARDS, Card, sharing
from ddps_ray.quantities import amount, si
from ddps_ray.selection import sets
from ddps_ray.sources.reading import attempt_encoded
from ddps_ray.storage import Run
from ddps_ray.students import costs, data, images, memory, networks, protocols
from ddps_ray.students.protocols import Facts, Protocol

Line = tuple[str, str]
"""What a line is about, and what it says."""

_SAMPLE = 64
_SETTINGS = ("protocol", "teacher", "images", "batch", "steps")
"""Columns that are said above the table if all its rows have the same."""
_HEAD = ("student", *_SETTINGS, "cells", "memory")
_CARD_HEADS = tuple(f"{card.name} ({card.gib:g} GiB)" for card in CARDS)


@dataclass(frozen=True)
class Trained:
    """Something that students are trained on.

    Attributes:
        name: Of the set, with its IPC.
        ipc: Images per class.
        images: Their number.
        class_ids: Its classes.
        mosaic: Whether its images are mosaics.
    """

    name: str
    ipc: int
    images: int
    class_ids: tuple[str, ...]
    mosaic: bool


@dataclass(frozen=True)
class Kind:
    """Cells of the grid that cost the same: they differ in set and seed.

    Attributes:
        student: The network.
        preset: Name of the protocol.
        teacher: The teacher; None if the protocol has none.
        protocol: Settings.
        images: Of each set.
        classes: Of each set.
        tested: Images on which a student is validated.
    """

    student: Student
    preset: str
    teacher: Teacher | None
    protocol: Protocol
    images: int
    classes: int
    tested: int


@dataclass(frozen=True)
class Estimate:
    """What a kind takes.

    Attributes:
        kind: The kind.
        cells: Number of its cells.
        needed: Bytes of GPU memory with the batch in one piece.
        hours: From a cell's begin to its end, on as many of each of `CARDS` as it has workers; where cells share
            one, they are taken to wait for each other.
        parts: Into how many parts the batch is cut on each of them; None where that does not help.
    """

    kind: Kind
    cells: int
    needed: int
    hours: tuple[float, ...]
    parts: tuple[int | None, ...]


def lines(recipe: Recipe, this: Run, gpus: int, utilisation: float) -> Iterator[Line]:
    """Yields what is to be printed; nothing if nothing is evaluated.

    Args:
        recipe: The recipe; its data set has been indexed.
        this: Its run directory.
        gpus: GPUs of the cluster.
        utilisation: Share of a GPU's peak operations that is reached.

    Raises:
        UserError: A student does not fit into the memory of any GPU, or the GPUs are too few for one.
    """
    if recipe.data.val is None:
        return
    slots = _slots(recipe, gpus)
    trained = list(trained_on(recipe, this))
    estimates = [_estimate(recipe, kind, cells, utilisation) for kind, cells in kinds(recipe, this, trained).items()]
    if estimates:
        yield from _table(estimates, gpus, slots)
        yield "hours", f"for one student on {_several(recipe)} in {dtype_of(recipe)}: {_speed(utilisation)}"
        yield from _read(recipe, this, trained, estimates)
    if foreign := [name for name in recipe.evaluate.sets or recipe.evaluate.foreign if name in recipe.evaluate.foreign]:
        whole = f", nor {WHOLE} for classes that they alone have" if recipe.evaluate.whole else ""
        yield "not in it", f"foreign sets, whose images are counted when they are read: {', '.join(foreign)}{whole}"
    if homeless := [one for one in estimates if not any(one.parts)]:
        kind, largest = homeless[0].kind, max(CARDS, key=lambda card: card.memory)
        _parts(recipe, kind, int(recipe.evaluate.gpus * largest.memory))


def trained_on(recipe: Recipe, this: Run) -> Iterator[Trained]:
    """Yields our own sets that are evaluated, at each IPC, and the training split for the classes of each if asked."""
    cfg, wanted = recipe.evaluate, sets.class_ids(this, recipe)
    own = [
        Trained(
            f"{name} ipc={ipc}", ipc, ipc * len(wanted[name]), tuple(wanted[name]), sets.is_mosaic(recipe, name, ipc)
        )
        for name in cfg.sets or recipe.distill.sets
        for ipc in (dict.fromkeys(recipe.distill.sets[name].ipc) if name in recipe.distill.sets else ())
        if cfg.ipc is None or ipc in cfg.ipc
    ]
    yield from own
    if cfg.whole:
        counts = sets.images_by_class(this, recipe.data.train)
        for whole in sets.wholes(counts, (one.class_ids for one in own)):
            yield Trained(WHOLE, whole.ipc, whole.images, whole.class_ids, False)


def kinds(recipe: Recipe, this: Run, trained: Sequence[Trained]) -> dict[Kind, int]:
    """Returns each kind of cell with the number of its cells, in the recipe's order."""
    cfg, found = recipe.evaluate, dict[Kind, set[tuple[Trained, str]]]()
    layout = str(this.require("index", "index").get("layout", recipe.data.layout))
    there = sets.images_by_class(this, str(recipe.data.val))
    for student in cfg.students:
        for preset in cfg.protocols:
            for called, teacher in recipe.all_teachers.items():
                for one in trained:
                    kind = _kind(recipe, student, preset, teacher, one, layout, there)
                    taught_by = called if kind.teacher else "nobody"
                    found.setdefault(kind, set()).add((one, taught_by))
    seeds = len(set(cfg.seeds))
    return {kind: seeds * len(cells) for kind, cells in found.items()}


def makespan(cells: Sequence[float], slots: int) -> float:
    """Hours until all cells are done, each in one slot, the longest first."""
    free = [0.0] * slots
    for hours in sorted(cells, reverse=True):
        heapq.heapreplace(free, free[0] + hours)
    return max(free)


def _slots(recipe: Recipe, gpus: int) -> int:
    cfg = recipe.evaluate
    if gpus < cfg.workers:
        raise UserError(f"--gpus {gpus}: evaluate.workers lets each student have {cfg.workers}: give as many at least")
    room = gpus // cfg.workers * sharing(cfg.gpus)
    return min(room, cfg.together or room)


def _kind(
    recipe: Recipe, student: Student, preset: str, teacher: Teacher, one: Trained, layout: str, there: dict[str, int]
) -> Kind:
    classes = len(one.class_ids)
    # Crops and shuffling, which depend on whether the images are mosaics, cost nothing to speak of.
    facts = Facts(one.ipc, classes, one.images, False, recipe.evaluate.size, layout, teacher.model.arch)
    protocol = protocols.resolve(preset, recipe.evaluate, facts, student)
    tested = sum(there.get(class_id, 0) for class_id in one.class_ids)
    return Kind(student, preset, teacher if protocol.teacher else None, protocol, one.images, classes, tested)


def _estimate(recipe: Recipe, kind: Kind, cells: int, utilisation: float) -> Estimate:
    cfg, dtype, teacher = recipe.evaluate, dtype_of(recipe), _asked(recipe, kind)
    shape = (kind.images, kind.tested, kind.classes, cfg.size, dtype, cfg.workers)
    cost = costs.training(kind.student, teacher, kind.protocol, *shape)
    needed = memory.needed(kind.student, teacher, kind.protocol, cfg.size, kind.classes, dtype, cfg.workers)
    hours = tuple(sharing(cfg.gpus) * cost.hours(card, dtype, utilisation) for card in CARDS)
    return Estimate(kind, cells, needed, hours, tuple(_parts_if_any(recipe, kind, card) for card in CARDS))


def _parts_if_any(recipe: Recipe, kind: Kind, card: Card) -> int | None:
    try:
        return _parts(recipe, kind, int(recipe.evaluate.gpus * card.memory))
    except UserError:
        return None


def _parts(recipe: Recipe, kind: Kind, available: int) -> int:
    cfg, teacher = recipe.evaluate, _asked(recipe, kind)
    shape = (cfg.size, kind.classes, dtype_of(recipe), cfg.workers)
    return memory.accumulation(kind.student, teacher, kind.protocol, *shape, available)


def _asked(recipe: Recipe, kind: Kind) -> Network | None:
    """The teacher that a student asks as it learns; None where its labels are stored."""
    return kind.teacher.model if kind.teacher and recipe.evaluate.labels is None else None


def dtype_of(recipe: Recipe) -> str:
    """In which numbers networks compute on a GPU."""
    return "bfloat16" if recipe.evaluate.precision == "auto" else recipe.evaluate.precision


def _several(recipe: Recipe) -> str:
    workers, together = recipe.evaluate.workers, sharing(recipe.evaluate.gpus)
    if together > 1:
        return f"one GPU that {together} share, each at 1/{together} of its speed,"
    return "one GPU" if workers == 1 else f"{workers} GPUs, of which one validates,"


def _speed(utilisation: float) -> str:
    return (
        f"the longest of operations at {utilisation:.0%} of the peak, memory traffic at {costs.BANDWIDTH_SHARE:.0%} "
        f"of the bandwidth, and {costs.LAUNCH_SECONDS * 1e6:g} µs of the CPU to begin each operation; an estimate"
    )


def _table(estimates: Sequence[Estimate], gpus: int, slots: int) -> Iterator[Line]:
    cells = sum(one.cells for one in estimates)
    rows = [_row(one) for one in estimates]
    shared = [name for name in _SETTINGS if len({row[name] for row in rows}) == 1]
    yield (
        "evaluation",
        "; ".join([f"{cells:,} students to train and test", *(f"{key} {rows[0][key]}" for key in shared)]),
    )
    together = {name: _together(estimates, at, slots) for at, name in enumerate(_CARD_HEADS)}
    rows.append({_HEAD[0]: f"all, on {gpus} GPUs"} | together)
    columns = [[name, *(row.get(name, "") for row in rows)] for name in (*_HEAD, *_CARD_HEADS) if name not in shared]
    padded = [[text.ljust(max(map(len, column))) for text in column] for column in columns]
    for row in zip(*padded, strict=True):
        yield "", "  ".join(row).rstrip()


def _row(one: Estimate) -> dict[str, str]:
    kind = one.kind
    said = (
        networks.name(kind.student),
        kind.preset,
        networks.name(kind.teacher.model) if kind.teacher else "none",
        f"{kind.images:,}",
        str(kind.protocol.batch),
        f"{costs.steps(kind.protocol, kind.images):,}",
        f"{one.cells:,}",
        f"{one.needed / 2**30:.1f} GiB",
    )
    fits = (_fit(hours, parts) for hours, parts in zip(one.hours, one.parts, strict=True))
    return dict(zip((*_HEAD, *_CARD_HEADS), (*said, *fits), strict=True))


def _fit(hours: float, parts: int | None) -> str:
    if parts is None:
        return "does not fit"
    return f"{amount(hours)} h, " + ("fits" if parts == 1 else f"in {parts} parts")


def _together(estimates: Sequence[Estimate], at: int, slots: int) -> str:
    if any(one.parts[at] is None for one in estimates):
        return "not all fit"
    hours = [one.hours[at] for one in estimates for _ in range(one.cells)]
    return f"{amount(makespan(hours, slots))} h"


def _read(recipe: Recipe, this: Run, trained: Sequence[Trained], estimates: Sequence[Estimate]) -> Iterator[Line]:
    """What is read, and where it is held: once a node, but for what the cache there has no room for."""
    pixels = 3 * recipe.evaluate.size**2
    class_ids = sorted({class_id for one in trained for class_id in one.class_ids})
    of_val = (ds.field("split") == recipe.data.val) & ds.field("class_id").isin(class_ids)
    uris = manifest.dataset(this).to_table(columns=["uri"], filter=of_val)["uri"]
    refused = {one: why for one in trained if (why := images.refusal(pixels * one.images))}
    passing = [one for one in refused if one.name == WHOLE and pixels * one.images > data.MEMORY_LIMIT]
    once = sum(one.images for one in trained if one not in passing)
    sets_once = f"{once:,} images of {len(trained) - len(passing)} sets"
    yield "read", f"{_encoded(uris.to_pylist())}; then {sets_once}; once a node{' if held there' if refused else ''}"
    on_disk = sum(one.images for one in trained if one not in refused)
    held = f"{si(pixels * len(uris))}B of validation and {si(pixels * on_disk)}B of sets, decoded"
    yield "held", f"{held}, on the disk of each node"
    for one, why in refused.items():
        size = f"{si(pixels * one.images)}B of {one.name}, decoded, of {len(one.class_ids)} classes"
        if one in passing:
            yield "not held", f"{size}: {why}: each worker decodes {one.images:,} images in every epoch"
            yield from _decoding(recipe, this, one, estimates)
        else:
            yield "in memory", f"{size}: {why}: each process holds them"


def _decoding(recipe: Recipe, this: Run, one: Trained, estimates: Sequence[Estimate]) -> Iterator[Line]:
    """How fast a set has to be decoded that is not held, so that the hours of its students hold."""
    of_it = [each for each in estimates if (each.kind.images, each.kind.classes) == (one.images, len(one.class_ids))]
    asked = [
        f"{max(one.images * each.kind.protocol.epochs / each.hours[at] / 3600 for each in of_it):,.0f} on {name}"
        for at, name in enumerate(_CARD_HEADS)
    ]
    of_train = (ds.field("split") == recipe.data.train) & ds.field("class_id").isin(one.class_ids)
    uris = manifest.dataset(this).to_table(columns=["uri"], filter=of_train)["uri"].to_pylist()
    speed = _decoded_a_second(_sampled(uris), data.training_fit(recipe.evaluate.size))
    core = f"; a core decodes about {speed:,.0f}, measured here" if speed else ""
    yield "decoding", f"for the hours above each GPU needs, in images/s, {', '.join(asked)}{core}"


def _decoded_a_second(encoded: Sequence[bytes | BadImage], fit: images.Fit) -> float | None:
    """Images that a core decodes in a second; None if there are none."""
    good, begun = 0, time.thread_time()
    for each in encoded:
        if not isinstance(each, BadImage):
            with suppress(BadImage):
                fit(imaging.decode(each))
                good += 1
    return good / max(time.thread_time() - begun, 1e-9) if good else None


def _sampled(uris: Sequence[str]) -> list[bytes | BadImage]:
    """The files of some images, spread over all."""
    at = np.unique(np.linspace(0, len(uris) - 1, min(_SAMPLE, len(uris))).round().astype(int))
    return attempt_encoded(uris[index] for index in at)


def _encoded(uris: Sequence[str]) -> str:
    read = _sampled(uris)
    lengths = [len(each) for each in read if not isinstance(each, BadImage)]
    if not lengths:
        return f"{len(uris):,} validation images, of which none of {len(read)} sampled can be read"
    mean = float(np.mean(lengths))
    return f"{si(mean * len(uris))}B in {len(uris):,} validation images, by the mean of {len(lengths)}"
