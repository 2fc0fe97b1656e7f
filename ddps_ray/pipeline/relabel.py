"""Stage `relabel`: the teachers' soft labels of every training, stored ahead, so that students need no teacher.

Trainings that differ in their student alone share their labels. What is missing is files of some thousand images each,
shared out among trainings of Ray Train that need not know of each other; a file that is there is not made again.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ddps_ray import manifest, storage
from ddps_ray.config import Recipe
from ddps_ray.console import Ticker, say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cells, cluster, materials, tally, trainers
from ddps_ray.pipeline.cells import Cell
from ddps_ray.pipeline.tally import LABELLED
from ddps_ray.quantities import si
from ddps_ray.storage import Run
from ddps_ray.students import labels
from ddps_ray.students.labels import LabelSet

STAGE = "relabel"

_QUIET_SECONDS = 15.0


@dataclass(frozen=True)
class Portion:
    """Some files of a label set.

    Attributes:
        cell: One of the cells whose labels they are.
        numbers: Of the files, ascending.
    """

    cell: Cell
    numbers: tuple[int, ...]


def run(recipe: Recipe) -> None:
    """Stores every label that the recipe's students need and that is not there, and says how many bytes they are.

    Raises:
        UserError: `evaluate.labels` is null; a set, a teacher or the validation split is missing; a teacher knows
            nothing of the images, or gives logits that cannot be stored.
    """
    target, asked = Run(recipe.run_dir), recipe.evaluate.labels
    if asked is None:
        raise UserError("evaluate.labels: null: say what to store, {logits: float16} or {top: 10}")
    if recipe.data.val is None:
        raise UserError("data.val: null, but a teacher is tested on a validation split")
    grid = cells.of(recipe)
    found = label_sets(recipe, target, grid)
    materials.check_teachers(recipe, target, grid)
    left = {each: cell for each, cell in found.items() if each.bytes() is None}
    size = si(sum(each.planned() for each in found))
    say(f"relabel: {len(found)} label sets of {size}B, {len(found) - len(left)} of them already stored")
    if left:
        cluster.connect(recipe)
        materials.try_teachers(recipe, target, list(left.values()), STAGE)
        _write_missing(recipe, left)
        for each, cell in left.items():
            each.finish(_depends_on(recipe, cell, each.kept) | {"set": cell.set.name, "ipc": cell.set.ipc})
    stored = sum(each.bytes() or 0 for each in found)
    say(f"relabel: {len(found)} label sets, {si(stored)}B → {target.path(labels.FOLDER)}")


def label_set(recipe: Recipe, target: Run, cell: Cell) -> LabelSet | None:
    """The labels from which a cell's student learns; None where it asks the teacher, or has none."""
    asked, protocol = recipe.evaluate.labels, cell.protocol
    if asked is None or not protocol.teacher:
        return None
    kept = labels.kept_of(asked, len(cell.set.class_ids), protocol)
    uri = target.path(labels.FOLDER, storage.digest(_depends_on(recipe, cell, kept)))
    return LabelSet(uri, cell.set.images, protocol, cell.seed, recipe.evaluate.size, kept)


def label_sets(recipe: Recipe, target: Run, grid: Sequence[Cell]) -> dict[LabelSet, Cell]:
    """Each label set that some cells need, once, with the first of these cells."""
    found: dict[str, tuple[LabelSet, Cell]] = {}
    for cell in grid:
        if needed := label_set(recipe, target, cell):
            found.setdefault(needed.uri, (needed, cell))
    return dict(found.values())


def check(recipe: Recipe, target: Run, grid: Sequence[Cell]) -> None:
    """Looks whether the labels of some cells are there.

    Raises:
        UserError: They are not.
    """
    needed = label_sets(recipe, target, grid)
    if lacking := [each for each in needed if each.bytes() is None]:
        raise UserError(
            f"evaluate.labels: {len(lacking)} of {len(needed)} label sets are not in {target.path(labels.FOLDER)}: "
            "run `ddps relabel` first"
        )


def write_portions(recipe: Recipe, portions: Sequence[Portion]) -> None:
    """What a worker does: writes the files of some portions, one after the other."""
    target, device = Run(recipe.run_dir), materials.device(recipe)
    bfloat16, done = materials.in_bfloat16(recipe, device), tally.of_this_process(LABELLED)
    for portion in portions:
        wanted = label_set(recipe, target, portion.cell)
        assert wanted is not None
        left = set(wanted.missing())
        numbers = [number for number in portion.numbers if number in left]
        if numbers:
            training_set = materials.load_set(recipe, target, portion.cell.set)
            training_set.pictures.on(device)
            teacher = materials.load_teacher(recipe, target, portion.cell).to(device)
            for images in labels.write(wanted, training_set, teacher, device, numbers, bfloat16):
                done.add(images)


class Writers:
    """An actor that starts trainings; its threads bound how many run at once."""

    def write(self, recipe: Recipe, portions: Sequence[Portion], name: str, together: int) -> str | None:
        """Has some portions written; returns what the user has to put right, if anything."""
        target, arguments = Run(recipe.run_dir), {"recipe": recipe, "portions": portions}
        storage.remove(target.path(trainers.CHECKPOINTS, name))
        try:
            trainers.fit(write_portions, arguments, target, name, 1, recipe, together)
        except UserError as error:
            return str(error)
        return None


def _depends_on(recipe: Recipe, cell: Cell, kept: labels.Kept) -> dict[str, Any]:
    """All that labels depend on."""
    settings = json.loads(cell.settings)
    return {name: settings[name] for name in (*labels.VIEWS, "size", "precision", "teacher")} | {
        "set": cell.set.digest,
        "classes": manifest.class_digest(cell.set.class_ids),
        "seed": cell.seed,
        "top": kept.top,
        "temperature": kept.temperature,
        "steps": labels.steps_per_file(cell.protocol.batch, kept),
    }


def _write_missing(recipe: Recipe, left: dict[LabelSet, Cell]) -> None:
    missing = {each: each.missing() for each in left}
    work = [(each, number) for each, numbers in missing.items() for number in numbers]
    if not work:
        return
    images = sum(each.rows * len(numbers) / each.files for each, numbers in missing.items())
    together = min(trainers.slots(1, recipe), len(work), math.ceil(images / labels.ROWS))  # to start one takes seconds
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a spot node
    starter = ray.remote(num_cpus=0, max_concurrency=together, scheduling_strategy=here)(Writers).remote()
    tally.forget(LABELLED)
    ticker = Ticker(_QUIET_SECONDS)
    pending = [
        starter.write.remote(recipe, portions, f"{STAGE}-{number}", together)
        for number, portions in enumerate(_shared_out(work, left, together))
    ]
    while pending:
        done, pending = ray.wait(pending, timeout=_QUIET_SECONDS)
        if wrong := [said for said in ray.get(done) if said]:
            raise UserError(wrong[0])
        if ticker.due():
            say(f"relabel: {min(tally.total(LABELLED)[0] / images, 1.0):.0%} of the work")


def _shared_out(
    work: Sequence[tuple[LabelSet, int]], left: dict[LabelSet, Cell], parts: int
) -> Iterator[list[Portion]]:
    """The files in as many parts as there are trainings, each of files that follow each other."""
    for part in range(parts):
        mine = work[len(work) * part // parts : len(work) * (part + 1) // parts]
        yield [
            Portion(left[each], tuple(number for _, number in files))
            for each, files in groupby(mine, lambda item: item[0])
        ]
