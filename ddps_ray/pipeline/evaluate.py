"""Stage `evaluate`: students trained on the distilled sets with the teacher's soft labels, and their accuracies.

A cell is one student on one set at one IPC with one seed; its result is one row file, so a second run trains only what
is missing. Cells go to Ray Train: with GPUs each cell is a training of its own and as many run as there are GPUs;
without, the seeds of a student follow each other in one training, because starting one costs seconds.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from ddps_ray import manifest, schemas, storage
from ddps_ray.config import Recipe, Student
from ddps_ray.console import Ticker, say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cluster, tally, teacher, trainers
from ddps_ray.pipeline.tally import VALIDATED, Tally
from ddps_ray.report import accuracy
from ddps_ray.selection import sets
from ddps_ray.storage import Run
from ddps_ray.students import data, networks, teachers, training
from ddps_ray.students.training import Protocol

STAGE = "evaluate"
FOLDER = "evaluation"
"""Folder of the run directory that the rows go to."""

_QUIET_SECONDS = 15.0


@dataclass(frozen=True)
class Group:
    """A student on a distilled set, with the seeds that one training takes.

    Attributes:
        set_name: The distilled set.
        ipc: Its images per class.
        student: The network.
        class_ids: The set's classes, sorted: the order of the student's outputs.
        seeds: One student for each.
    """

    set_name: str
    ipc: int
    student: Student
    class_ids: tuple[str, ...]
    seeds: tuple[int, ...]

    def stage(self, recipe: Recipe) -> str:
        """What the run's record calls it, whatever its seeds."""
        names = (teachers.name(recipe.teacher), networks.name(self.student))
        return "/".join([STAGE, self.set_name, f"ipc={self.ipc}", *names])

    def file(self, recipe: Recipe, seed: int) -> str:
        """Name of the row file of one seed."""
        return re.sub(r"[^\w.=-]+", "_", self.stage(recipe).removeprefix(f"{STAGE}/")) + f"_seed={seed}.parquet"

    def missing(self, recipe: Recipe) -> tuple[int, ...]:
        """Its seeds that have no row yet."""
        folder = Run(recipe.run_dir).path(FOLDER)
        return tuple(seed for seed in self.seeds if not storage.exists(storage.join(folder, self.file(recipe, seed))))


def run(recipe: Recipe) -> None:
    """Trains and tests every student of the recipe that has no row yet, then says how good they are.

    Raises:
        UserError: A distilled set, the teacher or the validation split is missing; a network or the teacher does not
            suit; or the run directory has rows of the same students with other settings.
    """
    target = Run(recipe.run_dir)
    groups = list(_groups(recipe, target))
    _check(recipe, target, groups)
    for group in groups:
        target.claim(group.stage(recipe), settings(recipe, group))
    todo = [(group, missing) for group in groups if (missing := group.missing(recipe))]
    total, left = sum(len(group.seeds) for group in groups), sum(len(missing) for _, missing in todo)
    say(f"evaluate: {total} students, {total - left} of them already finished")
    if todo:
        cluster.connect(recipe)
        _train_all(recipe, [replace(group, seeds=missing) for group, missing in todo], total)
    for group in groups:
        _finish(target, group.stage(recipe), {"seeds": len(group.seeds)})
    for line in accuracy.table(target):
        say(line)
    say(f"evaluate: {total} students → {target.path(FOLDER)}")


def is_done(recipe: Recipe) -> bool:
    """Says whether every student of the recipe has its row; errors as in `sets.evaluated`."""
    return not any(group.missing(recipe) for group in _groups(recipe, Run(recipe.run_dir)))


def settings(recipe: Recipe, group: Group) -> dict[str, Any]:
    """All that a row depends on, besides the distilled set and the seed."""
    protocol = Protocol.of(recipe.evaluate, group.student, group.ipc, len(group.class_ids))
    about = recipe.teacher
    taught = teacher.settings(recipe) if about.weights == "trained" else {"published": teachers.name(about)}
    return asdict(protocol) | {
        "teacher": taught,
        "width": group.student.width,
        "workers": recipe.evaluate.workers,
        "val": recipe.data.val,
        "classes": len(group.class_ids),
    }


def train_group(recipe: Recipe, group: Group) -> None:
    """What each worker does: trains one student a seed; rank 0 tests it and writes its row."""
    target, cfg, classes = Run(recipe.run_dir), recipe.evaluate, list(group.class_ids)
    share, device = trainers.share(), trainers.device()
    distilled = data.load_distilled(_folder(target, group), classes, cfg.size)
    protocol = Protocol.of(cfg, group.student, group.ipc, len(classes))
    wnids = manifest.wnids(target)
    fixed = teachers.load(recipe.teacher, target.path(teacher.STAGE), classes, cfg.size, wnids).to(device)
    first = share.rank == 0
    val = data.load_validation(target, str(recipe.data.val), classes, cfg.size) if first else None
    reference = training.accuracy(fixed, val, device) if val else 0.0
    progress = Tally(VALIDATED)
    for seed in group.missing(recipe):
        torch.manual_seed(seed)
        network = networks.build(group.student, len(classes), cfg.size).to(device)
        student = trainers.prepare(network)
        validate = partial(_validate, network, val, device, progress) if val else None
        outcome = training.train_student(student, fixed, distilled, protocol, seed, validate, share)
        if outcome is not None:
            row = _row(recipe, group, seed, outcome, len(distilled.pictures), reference)
            storage.write_table(target.path(FOLDER, group.file(recipe, seed)), schemas.table(row, schemas.EVALUATION))
            say(f"{group.stage(recipe)}, seed {seed}: {outcome.accuracy_last:.1%}, loss {outcome.loss:.3g}")
    if val is not None:
        trainers.write_quarantine(target, STAGE, val.quarantine(STAGE), val.bad_class_ids())


def _validate(network: nn.Module, val: data.Pictures, device: torch.device, progress: Tally) -> float:
    measured = training.accuracy(network, val, device)
    progress.add(1)
    return measured


class Trainers:
    """An actor that starts trainings; its threads bound how many run at once, the others wait in its Ray queue."""

    def train(self, recipe: Recipe, group: Group, together: int) -> str | None:
        """Trains a group; returns what the user must put right, if anything."""
        name = group.file(recipe, group.seeds[0]).removesuffix(".parquet")
        arguments = {"recipe": recipe, "group": group}
        try:
            trainers.fit(train_group, arguments, Run(recipe.run_dir), name, recipe.evaluate.workers, recipe, together)
        except UserError as error:
            return str(error)
        return None


def _groups(recipe: Recipe, target: Run) -> Iterator[Group]:
    cfg, everything = recipe.evaluate, data.class_ids(target, recipe.data.train)
    for set_name, ipc in sets.evaluated(recipe):
        classes = tuple(sorted(set(recipe.distill.sets[set_name].classes or everything)))
        for student in cfg.students:
            yield Group(set_name, ipc, student, classes, tuple(dict.fromkeys(cfg.seeds)))


def _check(recipe: Recipe, target: Run, groups: list[Group]) -> None:
    if recipe.data.val is None:
        raise UserError("data.val: null, but students are tested on a validation split")
    names = [networks.name(student) for student in recipe.evaluate.students]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"evaluate.students: {twice[0]} is there twice")
    if recipe.teacher.weights == "trained":
        target.require(teacher.STAGE, teacher.STAGE)
        target.claim(teacher.STAGE, teacher.settings(recipe))
    wnids = manifest.wnids(target)
    for group in groups:
        if not storage.exists(storage.join(_folder(target, group), "metadata.parquet")):
            target.require(f"distill/{group.set_name}/ipc={group.ipc}", "distill")
        teachers.check(recipe.teacher, target.path(teacher.STAGE), group.class_ids, wnids)
        networks.check(group.student, len(group.class_ids), recipe.evaluate.size)


def _train_all(recipe: Recipe, groups: list[Group], total: int) -> None:
    slots = trainers.slots(recipe.evaluate.workers, recipe)
    if cluster.trains_on_gpus(recipe):
        groups = [replace(group, seeds=(seed,)) for group in groups for seed in group.seeds]
    together = min(recipe.evaluate.together or slots, len(groups))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a spot node
    starter = ray.remote(num_cpus=0, max_concurrency=together, scheduling_strategy=here)(Trainers).remote()
    tally.forget(VALIDATED)
    steps = sum(len(group.seeds) for group in groups) * len(training.validated_epochs(recipe.evaluate.epochs))
    pending = [starter.train.remote(recipe, group, together) for group in groups]
    ticker = Ticker(_QUIET_SECONDS)
    while pending:
        done, pending = ray.wait(pending, timeout=_QUIET_SECONDS)
        for wrong in ray.get(done):
            if wrong:
                raise UserError(wrong)
        if ticker.due() or not pending:
            left = sum(len(group.missing(recipe)) for group in groups)
            share = min(tally.total(VALIDATED)[0] / steps, 1.0) if left else 1.0
            say(f"evaluate: {total - left} of {total} students trained, {share:.0%} of all epochs")


def _finish(target: Run, stage: str, summary: dict[str, int]) -> None:
    if target.summary(stage) != summary:
        target.finish(stage, summary)


def _folder(target: Run, group: Group) -> str:
    return target.path("distilled", group.set_name, f"ipc={group.ipc}")


def _row(
    recipe: Recipe, group: Group, seed: int, outcome: training.Outcome, images: int, reference: float
) -> dict[str, list[Any]]:
    row = {
        "set_name": group.set_name,
        "selector": recipe.distill.sets[group.set_name].selector,
        "ipc": group.ipc,
        "teacher": teachers.name(recipe.teacher),
        "student": networks.name(group.student),
        "seed": seed,
        "images": images,
        "epochs": recipe.evaluate.epochs,
        "accuracy_last": outcome.accuracy_last,
        "accuracy_best": outcome.accuracy_best,
        "best_epoch": outcome.best_epoch,
        "accuracy_teacher": reference,
        "settings": json.dumps(settings(recipe, group), sort_keys=True),
        "class_digest": manifest.class_digest(group.class_ids),
    }
    return {column: [value] for column, value in row.items()}
