"""Stage `evaluate`: students trained on the sets, and how well they do: a grid of cells, each with a row of its own.

A cell that has its row is never trained again. Cells go to Ray Train: with GPUs each is a training of its own; without,
the seeds of a student follow each other in one, because starting one costs seconds. One that fails is a row with its
reason, and the others go on.
"""

import json
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.train import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from ddps_ray import foreign_sets, manifest, schemas, storage
from ddps_ray.config import WHOLE, Recipe
from ddps_ray.console import Ticker, duration, say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cells, cluster, materials, relabel, tally, trainers
from ddps_ray.pipeline.cells import FAILED, FOLDER, FOREIGN, TENSORBOARD, Cell
from ddps_ray.pipeline.tally import EPOCHS
from ddps_ray.report import accuracy
from ddps_ray.storage import Run
from ddps_ray.students import data, memory, networks, optimising, syncing, training
from ddps_ray.students.curves import Curves
from ddps_ray.students.labels import Stored
from ddps_ray.students.training import Means, State, Training

STAGE = "evaluate"

_QUIET_SECONDS = 15.0


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seeds alone, which one training takes one after the other.

    Attributes:
        name: Of the training, safe as a file name; the same whichever of its cells are left.
        cells: Those that have no row yet.
        together: Trainings that run at the same time.
    """

    name: str
    cells: tuple[Cell, ...]
    together: int

    @property
    def work(self) -> float:
        """What it takes, in images seen: the longest begins first."""
        return sum(cell.protocol.epochs * cell.set.images for cell in self.cells)


def run(recipe: Recipe) -> None:
    """Trains and tests every student of the recipe that has no row yet, then says how good they are.

    Raises:
        UserError: A set, a teacher or the validation split is missing; a network or a teacher does not suit, or a
            teacher knows nothing of the images; in the end, if students could not be trained.
    """
    target = Run(recipe.run_dir)
    if recipe.data.val is None:
        raise UserError("data.val: null, but students are tested on a validation split")
    grid = cells.of(recipe)
    for note in dict.fromkeys(note for cell in grid for note in cell.set.notes):
        say(f"evaluate: warning: {note}")
    _check(recipe, target, grid)
    todo = cells.unfinished(grid, target)
    relabel.check(recipe, target, todo)
    say(f"evaluate: {len(grid)} students, {len(grid) - len(todo)} of them already finished")
    if todo:
        cluster.connect(recipe)
        materials.try_teachers(recipe, target, todo, STAGE)
        _train_all(recipe, target, todo, len(grid))
    for line in accuracy.table(target):
        say(line)
    failed = cells.unfinished(grid, target)
    _forget_states(target, grid, failed)
    if failed:
        reasons = target.path(FOLDER, FAILED)
        raise UserError(f"evaluate: {len(failed)} of {len(grid)} students could not be trained; why is in {reasons}")
    say(f"evaluate: {len(grid)} students → {target.path(FOLDER)}")


def is_done(recipe: Recipe) -> bool:
    """Says whether every student of the recipe has its row; False where that cannot be known yet."""
    target = Run(recipe.run_dir)
    try:
        return not cells.unfinished(cells.of(recipe), target)
    except UserError:
        return False


def train_group(recipe: Recipe, group: Group) -> None:
    """What each worker does: trains one student a seed; rank 0 tests it and writes its row."""
    target, cfg = Run(recipe.run_dir), recipe.evaluate
    one = group.cells[0]
    device, share = materials.device(recipe), trainers.share()
    training_set = materials.load_set(recipe, target, one.set)
    parts, needed = _parts(recipe, one, device)  # before anything is there
    training_set.pictures.on(device, needed)
    val = materials.load_val(recipe, target, one.set) if share.rank == 0 else None
    if val is not None:
        val.on(device, needed)
    asks = one.protocol.teacher and recipe.evaluate.labels is None
    fixed = materials.load_teacher(recipe, target, one).to(device) if asks else None
    means = Means(cfg.size, materials.in_bfloat16(recipe, device), parts, share)
    saved = trainers.saved_state(target, group.name)
    for cell in group.cells:
        if cell.is_done(target):
            continue
        torch.manual_seed(cell.seed)
        network = networks.build(cell.student, len(cell.set.class_ids), cfg.size)
        student = trainers.prepare(syncing.together(network, device))
        labels = relabel.label_set(recipe, target, cell)
        stored = Stored(labels) if labels else None
        work = Training(student, fixed, training_set, cell.protocol, cell.seed, means, stored)
        if saved is not None and saved["cell"] == cell.key:
            work.restore(saved["training"])
            if share.rank == 0:
                say(f"evaluate/{cell.title}, seed {cell.seed}: going on after epoch {saved['training']['epochs']}")
        validate = _validation(val, device, means.bfloat16) if val else None
        with _curves(recipe, target, cell, work) as curves:
            outcome = work.run(validate, _Keeping(recipe, cell, work, curves))
        if outcome is not None:
            _write(recipe, target, cell, outcome, device, means)
    if val is not None:
        for stage, pictures in ((STAGE, val), (f"{STAGE}-{WHOLE}", training_set.pictures)):
            trainers.write_quarantine(target, stage, pictures.quarantine(stage), pictures.bad_class_ids())


class Trainers:
    """An actor that starts trainings; its threads bound how many run at once, the others wait in its Ray queue."""

    def train(self, recipe: Recipe, group: Group) -> list[str]:
        """Trains a group; a seed that fails is noted with its reason, which is returned, and those behind it go on."""
        target, left, failed = Run(recipe.run_dir), list(group.cells), list[str]()
        while left:
            part = Group(group.name, tuple(left), group.together)
            arguments = {"recipe": recipe, "group": part}
            trainers.drop_cut_states(target, group.name)
            try:
                cfg = recipe.evaluate
                trainers.fit(train_group, arguments, target, group.name, cfg.workers, recipe, group.together, cfg.gpus)
                break
            except (UserError, TrainingFailedError, trainers.Unreadable, OSError) as error:
                left = cells.unfinished(left, target)
                if not left:
                    break
                failed.append(_note_failure(target, left.pop(0), trainers.reason(error, target)))
        return failed


class _Keeping:
    """Gives the state of a training to Ray Train when it is time, counts its epochs, and draws its curves."""

    def __init__(self, recipe: Recipe, cell: Cell, work: Training, curves: Curves | None) -> None:
        self._cell, self._work, self._curves = cell, work, curves
        self._world, self._seconds = trainers.share().world, 60 * recipe.evaluate.checkpoint_minutes
        self._last, self._progress = time.monotonic(), tally.of_this_process(EPOCHS)

    def __call__(self, state: Callable[[], State], done: int, loss: float) -> None:
        rank = trainers.share().rank
        if rank == 0:
            self._progress.add(self._cell.set.images)
        if self._curves is not None:
            self._curves.add(self._work.history[-1])
        if done < self._cell.protocol.epochs and self._is_time():
            self._last = time.monotonic()
            if self._curves is not None:
                self._curves.keep()
            kept = None if rank else {"cell": self._cell.key, "training": state()}
            trainers.report({"loss": loss}, kept)

    def _is_time(self) -> bool:
        """Whether rank 0 finds that it is: all workers report, or none."""
        due = time.monotonic() - self._last >= self._seconds
        if self._world == 1:
            return due
        asked = torch.tensor(float(due), device=trainers.device())
        dist.broadcast(asked, 0)
        return bool(asked.item())


def _train_all(recipe: Recipe, target: Run, todo: list[Cell], total: int) -> None:
    groups = _groups(recipe, todo, trainers.slots(recipe.evaluate.workers, recipe, recipe.evaluate.gpus))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a spot node
    together = groups[0].together
    starter = ray.remote(num_cpus=0, max_concurrency=together, scheduling_strategy=here)(Trainers).remote()
    tally.forget(EPOCHS)
    pending = [starter.train.remote(recipe, group) for group in groups]
    work, ticker, begun = sum(group.work for group in groups), Ticker(_QUIET_SECONDS), time.monotonic()
    waiting = todo
    while pending:
        done, pending = ray.wait(pending, timeout=_QUIET_SECONDS)
        for failure in chain.from_iterable(ray.get(done)):
            say(failure)
        left = {cell.key: cell for cell in cells.unfinished(waiting, target)}
        for cell in waiting:
            if cell.key not in left:
                say(_result(target, cell))
        waiting = list(left.values())
        if ticker.due() or not pending:
            part = min(tally.total(EPOCHS)[0] / work, 1.0) if pending else 1.0
            spent = time.monotonic() - begun
            ahead = f", about {duration(spent * (1 - part) / part)} to go" if pending and part > 0 else ""
            say(f"evaluate: {total - len(waiting)} of {total} students trained, {part:.0%} of the work{ahead}")


def _groups(recipe: Recipe, todo: Sequence[Cell], slots: int) -> list[Group]:
    """The trainings, the longest first."""
    apart = cluster.trains_on_gpus(recipe)
    found: dict[str, list[Cell]] = {}
    for cell in todo:
        found.setdefault(_group_name(cell, apart), []).append(cell)
    together = min(recipe.evaluate.together or slots, len(found))
    groups = [Group(name, tuple(some), together) for name, some in found.items()]
    return sorted(groups, key=lambda group: -group.work)


def _group_name(cell: Cell, apart: bool) -> str:
    of_set = (cell.set.name, cell.set.ipc, cell.set.digest, cell.set.class_ids)
    return f"{STAGE}-{storage.digest((cell.settings, cell.teacher, *of_set, cell.seed if apart else None))}"


def _forget_states(target: Run, grid: Sequence[Cell], left: Sequence[Cell]) -> None:
    """Deletes the states of finished students, which one that was killed after its last row has left."""
    finished, going_on = (
        {_group_name(cell, apart) for cell in some for apart in (True, False)} for some in (grid, left)
    )
    for name in trainers.with_states(target) & (finished - going_on):
        storage.remove(target.path(trainers.CHECKPOINTS, name))


def _curves(recipe: Recipe, target: Run, cell: Cell, work: Training) -> AbstractContextManager[Curves | None]:
    """What the curves of a training are drawn with; None where another worker, or nobody, does."""
    if trainers.share().rank or not recipe.evaluate.tensorboard:
        return nullcontext()
    return Curves(target.path(TENSORBOARD, *cell.folder), work.history)


def _check(recipe: Recipe, target: Run, grid: Sequence[Cell]) -> None:
    """Everything that can be wrong before any training."""
    materials.check_teachers(recipe, target, grid)
    theirs = {cell.set.name: cell.set.class_ids for cell in grid if cell.set.selector == FOREIGN}
    foreign_sets.check_tested(recipe, target, theirs)
    for cell in grid:
        optimising.check_workers("evaluate.workers", recipe.evaluate.workers, cell.protocol.batch, each=1)
    for student, classes in dict.fromkeys((cell.student, len(cell.set.class_ids)) for cell in grid):
        networks.check(student, classes, recipe.evaluate.size)


def _validation(val: data.Pictures, device: torch.device, bfloat16: bool) -> Callable[[nn.Module], float]:
    return lambda network: training.accuracy(network, val, device, bfloat16)


def _parts(recipe: Recipe, cell: Cell, device: torch.device) -> tuple[int, int]:
    """Into how many parts a worker's share of a batch is cut, and the bytes of a GPU that a step then needs.

    As `ddps plan` has it, by all the memory of a GPU, of the smallest among those of the workers: which must have the
    same number of parts, or BatchNorm would wait for ever.
    """
    if device.type != "cuda":
        return 1, 0
    asks = cell.protocol.teacher and recipe.evaluate.labels is None
    about = recipe.all_teachers[cell.teacher].model if asks else None
    dtype = "bfloat16" if materials.in_bfloat16(recipe, device) else "float32"
    size, classes, workers = recipe.evaluate.size, len(cell.set.class_ids), recipe.evaluate.workers
    step = (cell.student, about, cell.protocol, size, classes, dtype, workers)
    mine = int(recipe.evaluate.gpus * torch.cuda.mem_get_info(device)[1])
    parts = memory.accumulation(*step, syncing.least(mine, device))
    return parts, memory.needed(*step, parts)


def _result(target: Run, cell: Cell) -> str:
    """The line about a student that has its row: the driver's own, since Ray may lose a worker's when a job ends."""
    filesystem, path = storage.open_uri(target.path(FOLDER, cell.file))
    (row,) = schemas.dataset([path], filesystem, schemas.EVALUATION).to_table().to_pylist()
    last, best = row["accuracy_last"], row["accuracy_best"]
    higher = f" ({best:.1%} after epoch {row['best_epoch']})" if best > last else ""
    return f"evaluate/{cell.title}, seed {cell.seed}: {last:.1%}{higher}"


def _note_failure(target: Run, cell: Cell, reason: str) -> str:
    row = _identity(cell) | {"reason": reason}
    columns = {column: [value] for column, value in row.items() if column in schemas.FAILURE.names}
    storage.write_table(target.path(FOLDER, FAILED, cell.file), schemas.table(columns, schemas.FAILURE))
    return f"evaluate/{cell.title}, seed {cell.seed}: failed: {reason}"


def _write(
    recipe: Recipe, target: Run, cell: Cell, outcome: training.Outcome, device: torch.device, means: Means
) -> None:
    reference = 0.0
    if cell.protocol.teacher:
        reference = json.loads(storage.read_bytes(materials.measured_at(recipe, target, cell)))["accuracy"]
    labels = relabel.label_set(recipe, target, cell)
    row = _identity(cell) | {
        "images": cell.set.images,
        "epochs": cell.protocol.epochs,
        "accuracy_last": outcome.accuracy_last,
        "accuracy_best": outcome.accuracy_best,
        "best_epoch": outcome.best_epoch,
        "accuracy_teacher": reference,
        "seconds": outcome.seconds,
        "memory": _memory(device),
        "set_bytes": cell.set.bytes,
        "parts": means.parts,
        "dtype": "bfloat16" if means.bfloat16 else "float32",
        "label_bytes": labels.bytes() if labels else None,
    }
    columns = {column: [value] for column, value in row.items()}
    storage.write_table(target.path(FOLDER, cell.file), schemas.table(columns, schemas.EVALUATION))
    storage.discard(target.path(FOLDER, FAILED, cell.file))


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "set_name": cell.set.name,
        "selector": cell.set.selector,
        "ipc": cell.set.ipc,
        "teacher": cell.called,
        "student": networks.name(cell.student),
        "seed": cell.seed,
        "protocol": cell.protocol.name,
        "settings": cell.settings,
        "set_digest": cell.set.digest,
        "class_digest": manifest.class_digest(cell.set.class_ids),
    }


def _memory(device: torch.device) -> int:
    """Most bytes that were in use: on the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
