"""Stage `evaluate`: students trained on the sets, and how well they do: a grid of cells, each with a row of its own.

A cell that has its row is never trained again. Cells go to Ray Train: with GPUs each is a training of its own; without,
the seeds of a student follow each other in one, because starting one costs seconds. One that fails is a row with its
reason, and the others go on.
"""

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.train import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from ddps_ray import checks, manifest, schemas, storage
from ddps_ray.config import WHOLE, Recipe
from ddps_ray.console import Ticker, duration, say
from ddps_ray.errors import UserError, first_line
from ddps_ray.pipeline import cells, cluster, tally, teacher, trainers
from ddps_ray.pipeline.cells import FAILED, FOLDER, FOREIGN, Cell, Trained
from ddps_ray.pipeline.tally import EPOCHS
from ddps_ray.report import accuracy
from ddps_ray.storage import Run
from ddps_ray.students import data, memory, networks, sets, syncing, teachers, training
from ddps_ray.students.sets import TrainingSet
from ddps_ray.students.training import Means, State, Training

STAGE = "evaluate"

_QUIET_SECONDS = 15.0
_IMAGENET = 1000  # classes


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
    _check(recipe, target, grid)
    todo = [cell for cell in grid if not cell.is_done(target)]
    say(f"evaluate: {len(grid)} students, {len(grid) - len(todo)} of them already finished")
    if todo:
        cluster.connect(recipe)
        _try_teachers(recipe, target, todo)
        _train_all(recipe, target, todo, len(grid))
    for line in accuracy.table(target):
        say(line)
    failed = [cell for cell in grid if not cell.is_done(target)]
    if failed:
        reasons = target.path(FOLDER, FAILED)
        raise UserError(f"evaluate: {len(failed)} of {len(grid)} students could not be trained; why is in {reasons}")
    say(f"evaluate: {len(grid)} students → {target.path(FOLDER)}")


def is_done(recipe: Recipe) -> bool:
    """Says whether every student of the recipe has its row; False where that cannot be known yet."""
    target = Run(recipe.run_dir)
    try:
        return all(cell.is_done(target) for cell in cells.of(recipe))
    except UserError:
        return False


def train_group(recipe: Recipe, group: Group) -> None:
    """What each worker does: trains one student a seed; rank 0 tests it and writes its row."""
    target, cfg = Run(recipe.run_dir), recipe.evaluate
    one = group.cells[0]
    device, share = trainers.device(), trainers.share()
    training_set = _load_set(target, recipe, one.set)
    training_set.pictures.on(device)
    fixed = _load_teacher(recipe, target, one).to(device) if one.protocol.teacher else None
    val = _load_val(recipe, target, one.set) if share.rank == 0 else None
    if val is not None:
        val.on(device)
    means = Means(cfg.size, _bfloat16(recipe, device), _parts(recipe, one, device), share)
    saved = trainers.saved_state(target, group.name)
    for cell in group.cells:
        if cell.is_done(target):
            continue
        torch.manual_seed(cell.seed)
        network = networks.build(cell.student, len(cell.set.class_ids), cfg.size)
        student = trainers.prepare(syncing.together(network, device))
        work = Training(student, fixed, training_set, cell.protocol, cell.seed, means)
        if saved is not None and saved["cell"] == cell.key:
            work.restore(saved["training"])
            if share.rank == 0:
                say(f"{cell.title}, seed {cell.seed}: going on after epoch {saved['training']['epochs']}")
        validate = _validation(val, device, means.bfloat16) if val else None
        outcome = work.run(validate, _Keeping(recipe, cell, share.world))
        if outcome is not None:
            _write(recipe, target, cell, outcome, device, means.parts)
    if val is not None:
        trainers.write_quarantine(target, STAGE, val.quarantine(STAGE), val.bad_class_ids())


class Trainers:
    """An actor that starts trainings; its threads bound how many run at once, the others wait in its Ray queue."""

    def train(self, recipe: Recipe, group: Group) -> None:
        """Trains a group; a seed that fails is noted with its reason, and those behind it go on."""
        target, left = Run(recipe.run_dir), list(group.cells)
        while left:
            part = Group(group.name, tuple(left), group.together)
            arguments = {"recipe": recipe, "group": part}
            try:
                trainers.fit(
                    train_group, arguments, target, group.name, recipe.evaluate.workers, recipe, group.together
                )
                return
            except (UserError, TrainingFailedError) as error:
                left = [cell for cell in left if not cell.is_done(target)]
                if not left:
                    return
                _note_failure(target, left.pop(0), first_line(error))
                storage.remove(target.path(trainers.CHECKPOINTS, group.name))


class _Keeping:
    """Gives the state of a training to Ray Train when it is time, and counts its epochs."""

    def __init__(self, recipe: Recipe, cell: Cell, world: int) -> None:
        self._cell, self._world, self._seconds = cell, world, 60 * recipe.evaluate.checkpoint_minutes
        self._last, self._progress = time.monotonic(), tally.of_this_process(EPOCHS)

    def __call__(self, state: Callable[[], State], done: int, loss: float) -> None:
        rank = trainers.share().rank
        if rank == 0:
            self._progress.add(self._cell.set.images)
        if done < self._cell.protocol.epochs and self._is_time():
            self._last = time.monotonic()
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


def _check(recipe: Recipe, target: Run, grid: Sequence[Cell]) -> None:
    """Everything that can be wrong before any training."""
    wnids = manifest.wnids(target)
    for (name, class_ids), _ in groupby((cell.teacher, cell.set.class_ids) for cell in grid if cell.protocol.teacher):
        about = recipe.all_teachers[name]
        stage, folder = teacher.location(recipe, name, class_ids)
        if about.weights == "trained":
            target.require(stage, "teacher")
        teachers.check(about, folder, class_ids, wnids)
    for doubt in checks.untested(
        recipe, target, {cell.set.name: cell.set.class_ids for cell in grid if cell.set.name != WHOLE}
    ):
        say(f"evaluate: warning: {doubt}")
    for (student, classes), _ in groupby((cell.student, len(cell.set.class_ids)) for cell in grid):
        networks.check(student, classes, recipe.evaluate.size)


def _try_teachers(recipe: Recipe, target: Run, todo: Sequence[Cell]) -> None:
    """Measures each teacher once on the classes that it teaches, and says how good it is.

    Raises:
        UserError: One is no teacher of these classes.
    """
    tried = {(cell.teacher, cell.set.class_ids): cell for cell in todo if cell.protocol.teacher}
    for (name, class_ids), cell in tried.items():
        about = recipe.all_teachers[name]
        uri = _measured(target, recipe, cell)
        if not storage.exists(uri):
            trainers.fit(measure_teacher, {"recipe": recipe, "cell": cell}, target, f"teacher-{cell.key}", 1, recipe)
        found = json.loads(storage.read_bytes(uri))
        called = teachers.name(name, about)
        measured = f"{found['accuracy']:.1%} of {found['images']} images of {len(class_ids)} classes"
        say(f"evaluate: teacher {called}: {measured}")
        expected = teachers.expected_accuracy(about, len(class_ids) == _IMAGENET, recipe.evaluate.size)
        if wrong := teachers.verdict(found["accuracy"], found["images"], len(class_ids), expected):
            raise UserError(f"teacher {called}: {wrong}")


def measure_teacher(recipe: Recipe, cell: Cell) -> None:
    """What a worker does: measures a teacher on the validation images of a set's classes, and writes it."""
    target, device = Run(recipe.run_dir), trainers.device()
    val = _load_val(recipe, target, cell.set)
    fixed = _load_teacher(recipe, target, cell).to(device)
    measured = training.accuracy(fixed, val, device, _bfloat16(recipe, device))
    about = {"accuracy": measured, "images": len(val) - len(val.bad)}
    storage.write_json(_measured(target, recipe, cell), about)


def _measured(target: Run, recipe: Recipe, cell: Cell) -> str:
    taught = json.loads(cell.settings)["teacher"]
    key = storage.digest([taught, recipe.evaluate.size, recipe.data.val, cell.set.class_ids])
    return target.path(FOLDER, "teachers", f"{key}.json")


def _train_all(recipe: Recipe, target: Run, todo: list[Cell], total: int) -> None:
    groups = _groups(recipe, todo, trainers.slots(recipe.evaluate.workers, recipe))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a spot node
    together = groups[0].together
    starter = ray.remote(num_cpus=0, max_concurrency=together, scheduling_strategy=here)(Trainers).remote()
    tally.forget(EPOCHS)
    pending = [starter.train.remote(recipe, group) for group in groups]
    work, ticker, begun = sum(group.work for group in groups), Ticker(_QUIET_SECONDS), time.monotonic()
    told: set[str] = set()
    while pending:
        done, pending = ray.wait(pending, timeout=_QUIET_SECONDS)
        ray.get(done)
        for cell in todo:
            if cell.key not in told and cell.is_done(target):
                told.add(cell.key)
        if ticker.due() or not pending:
            part = min(tally.total(EPOCHS)[0] / work, 1.0) if pending else 1.0
            spent = time.monotonic() - begun
            ahead = f", about {duration(spent * (1 - part) / part)} to go" if pending and part > 0 else ""
            say(f"evaluate: {total - len(todo) + len(told)} of {total} students trained, {part:.0%} of the work{ahead}")


def _groups(recipe: Recipe, todo: Sequence[Cell], slots: int) -> list[Group]:
    """The trainings, the longest first."""
    apart = cluster.trains_on_gpus(recipe)
    found: dict[str, list[Cell]] = {}
    for cell in todo:
        same = (cell.settings, cell.set.name, cell.set.ipc, cell.set.digest, cell.seed if apart else None)
        found.setdefault(storage.digest(same), []).append(cell)
    together = min(recipe.evaluate.together or slots, len(found))
    groups = [Group(f"{STAGE}-{key}", tuple(some), together) for key, some in found.items()]
    return sorted(groups, key=lambda group: -group.work)


def _validation(val: data.Pictures, device: torch.device, bfloat16: bool) -> Callable[[nn.Module], float]:
    return lambda network: training.accuracy(network, val, device, bfloat16)


def _load_set(target: Run, recipe: Recipe, about: Trained) -> TrainingSet:
    if about.name == WHOLE:
        split, classes = recipe.data.train, list(about.class_ids)
        return TrainingSet(data.load_training(target, split, classes, recipe.evaluate.size), False)
    if about.selector == FOREIGN:
        return sets.load_foreign(about.name, recipe, target)
    distilled = data.load_distilled(about.uri, about.class_ids, recipe.evaluate.size)
    return TrainingSet(distilled.pictures, distilled.mosaic)


def _load_val(recipe: Recipe, target: Run, about: Trained) -> data.Pictures:
    return data.load_validation(target, str(recipe.data.val), list(about.class_ids), recipe.evaluate.size)


def _load_teacher(recipe: Recipe, target: Run, cell: Cell) -> nn.Module:
    _, folder = teacher.location(recipe, cell.teacher, cell.set.class_ids)
    about, wnids = recipe.all_teachers[cell.teacher], manifest.wnids(target)
    return teachers.load(about, folder, list(cell.set.class_ids), recipe.evaluate.size, wnids)


def _bfloat16(recipe: Recipe, device: torch.device) -> bool:
    asked = recipe.evaluate.precision
    if asked == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return asked == "bfloat16"


def _parts(recipe: Recipe, cell: Cell, device: torch.device) -> int:
    """Into how many parts a worker's share of a batch is cut, so that a step fits into what the GPU has free."""
    if device.type != "cuda":
        return 1
    about = recipe.all_teachers[cell.teacher].model if cell.protocol.teacher else None
    dtype = "bfloat16" if _bfloat16(recipe, device) else "float32"
    free, _ = torch.cuda.mem_get_info(device)
    size, classes, workers = recipe.evaluate.size, len(cell.set.class_ids), recipe.evaluate.workers
    return memory.accumulation(cell.student, about, cell.protocol, size, classes, dtype, workers, free)


def _note_failure(target: Run, cell: Cell, reason: str) -> None:
    say(f"{cell.title}, seed {cell.seed}: failed: {reason}")
    row = _identity(cell) | {"protocol": cell.protocol.name, "reason": reason, "settings": cell.settings}
    columns = {column: [value] for column, value in row.items() if column in schemas.FAILURE.names}
    storage.write_table(target.path(FOLDER, FAILED, cell.file), schemas.table(columns, schemas.FAILURE))


def _write(
    recipe: Recipe, target: Run, cell: Cell, outcome: training.Outcome, device: torch.device, parts: int
) -> None:
    reference = 0.0
    if cell.protocol.teacher:
        reference = json.loads(storage.read_bytes(_measured(target, recipe, cell)))["accuracy"]
    row = _identity(cell) | {
        "images": cell.set.images,
        "epochs": cell.protocol.epochs,
        "accuracy_last": outcome.accuracy_last,
        "accuracy_best": outcome.accuracy_best,
        "best_epoch": outcome.best_epoch,
        "accuracy_teacher": reference,
        "settings": cell.settings,
        "class_digest": manifest.class_digest(cell.set.class_ids),
        "protocol": cell.protocol.name,
        "seconds": outcome.seconds,
        "memory": _memory(device),
        "set_digest": cell.set.digest,
        "set_bytes": cell.set.bytes,
        "parts": parts,
    }
    columns = {column: [value] for column, value in row.items()}
    storage.write_table(target.path(FOLDER, cell.file), schemas.table(columns, schemas.EVALUATION))
    storage.discard(target.path(FOLDER, FAILED, cell.file))
    say(f"{cell.title}, seed {cell.seed}: {outcome.accuracy_last:.1%}, loss {outcome.loss:.3g}")


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "set_name": cell.set.name,
        "selector": cell.set.selector,
        "ipc": cell.set.ipc,
        "teacher": cell.called,
        "student": networks.name(cell.student),
        "seed": cell.seed,
    }


def _memory(device: torch.device) -> int:
    """Most bytes that were in use: on the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
