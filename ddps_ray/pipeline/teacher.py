"""Stage `teacher`: the classifiers that teach the students, trained with Ray Train where none is published."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ddps_ray import foreign_sets, manifest
from ddps_ray.config import Recipe, Teacher
from ddps_ray.console import Ticker, say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cluster, trainers
from ddps_ray.storage import Run
from ddps_ray.students import data, networks, optimising, teacher_training, teachers, training

STAGE = "teacher"
"""Name of the stage, and of its folder in the run directory; below it each teacher that has a name."""

_SELDOM = 15.0
"""Seconds between two lines inside an epoch."""
_NOT_OF_A_TRAINING = {"class_order", "mean", "std", "accuracy", "scope", "gpus"}
"""What a teacher's section says that a training does not depend on; the scope does, by its classes."""


def run(recipe: Recipe) -> None:
    """Trains each trained teacher of the recipe: on all classes, or on those of each evaluated set.

    Raises:
        UserError: As `train_for` does.
    """
    trained = list(trainings(recipe)) if any(cfg.weights == "trained" for cfg in recipe.all_teachers.values()) else []
    for name, class_ids in trained:
        train_for(recipe, name, class_ids)
    if not trained:
        found = [_whence(name, cfg) for name, cfg in recipe.all_teachers.items()]
        say(f"teacher: nothing to train: {', '.join(found)}")


def trainings(recipe: Recipe) -> Iterator[tuple[str, list[str]]]:
    """Yields name and classes of each teacher that the recipe has trained, finished or not.

    Raises:
        UserError: The manifest is missing, or has no such split.
    """
    target = Run(recipe.run_dir)
    manifest.indexed(target, recipe.data.train)
    everything = data.class_ids(target, recipe.data.train)
    for name, cfg in recipe.all_teachers.items():
        if cfg.weights == "trained":
            for class_ids in _class_sets(recipe, everything) if cfg.scope == "set" else [everything]:
                yield name, class_ids


def location(recipe: Recipe, name: str, class_ids: Sequence[str]) -> tuple[str, str]:
    """Returns the stage of a trained teacher in the run's record, and the folder that it is saved in.

    Another setting of a teacher is another stage, beside the earlier one.

    Args:
        recipe: The recipe.
        name: The teacher's name in it; "" for the only one.
        class_ids: The classes of the set that it teaches; one that learns all classes is the same for each.
    """
    run = Run(recipe.run_dir)
    parts = [STAGE, *([name] if name else [])]
    if recipe.all_teachers[name].scope == "set":
        parts.append(f"classes={manifest.class_digest(class_ids)}")
    stage = run.variant("/".join(parts), settings(recipe, name))
    return stage, run.path(*stage.split("/"))


def settings(recipe: Recipe, name: str = "") -> dict[str, Any]:
    """All that a trained teacher depends on, besides its classes."""
    return {
        "teacher": recipe.all_teachers[name].model_dump(mode="json", exclude=_NOT_OF_A_TRAINING),
        "size": recipe.evaluate.size,
        "train": recipe.data.train,
        "val": recipe.data.val,
    }


def is_done(recipe: Recipe, name: str, class_ids: Sequence[str]) -> bool:
    """Says whether a trained teacher has been trained."""
    return Run(recipe.run_dir).summary(location(recipe, name, class_ids)[0]) is not None


def train_for(recipe: Recipe, name: str, class_ids: Sequence[str]) -> None:
    """Trains a teacher and saves it where `location` says, unless that is done.

    A training that was cut short goes on from its last checkpoint.

    Args:
        recipe: The recipe.
        name: The teacher's name in it; "" for the only one.
        class_ids: Its classes: of the set that it teaches, or all.

    Raises:
        UserError: The architecture does not suit, or a split has no images of the classes.
    """
    target, cfg, classes, called = Run(recipe.run_dir), recipe.all_teachers[name], list(class_ids), _called(name)
    with teachers.named(name):
        networks.check(cfg.model, len(classes), recipe.evaluate.size)
    size = recipe.evaluate.size
    say(f"{called}: {networks.name(cfg.model)} on {len(classes)} classes at {size} px, {cfg.epochs} epochs")
    stage, folder = location(recipe, name, classes)
    if target.claim(stage, settings(recipe, name)):
        if _is_whole(cfg, folder, classes, size):
            say(f"{called}: already finished: {_in_words(target, stage, folder)}")
            return
        say(f"{called}: it was finished, but its files are gone or damaged: training it again")
        target.reopen(stage)
    cluster.connect(recipe)
    arguments = {"recipe": recipe, "name": name, "class_ids": classes, "stage": stage}
    trainers.fit(train, arguments, target, _file_name(stage), cfg.workers, recipe, gpus=cfg.gpus)
    target.finish(stage, {"accuracy": teachers.describe(folder)["accuracy"], "classes": len(classes)})
    say(f"{called}: {_in_words(target, stage, folder)}")


def train(recipe: Recipe, name: str, class_ids: list[str], stage: str) -> None:
    """What each worker does: trains, and on rank 0 keeps checkpoints, measures and saves."""
    target, cfg, size, called = Run(recipe.run_dir), recipe.all_teachers[name], recipe.evaluate.size, _called(name)
    pictures = data.load_training(target, recipe.data.train, class_ids, size).on(trainers.device())
    share = trainers.share()
    with teachers.named(name):
        batch = min(cfg.batch, len(pictures))
        optimising.check_workers("teacher.workers", share.world, batch, each=optimising.LEAST)
    torch.manual_seed(cfg.seed)
    model = trainers.prepare(networks.build(cfg.model, len(class_ids), size))
    ticker = Ticker(_SELDOM)

    def checkpoint(state: teacher_training.State, loss: float) -> None:
        if share.rank == 0:
            say(f"{called}: epoch {state['epochs']} of {cfg.epochs}, loss {loss:.4f}")
        trainers.report({"loss": loss}, None if share.rank else state)

    def tell(epochs: int, images: int) -> None:
        if share.rank == 0 and ticker.due():
            say(f"{called}: in epoch {epochs + 1} of {cfg.epochs}, {images} of {len(pictures)} images")

    saved = trainers.saved_state(target, _file_name(stage))
    teacher_training.train(model, pictures, cfg, size, checkpoint, saved, share, tell)
    if share.rank == 0:
        trainers.write_quarantine(target, STAGE, pictures.quarantine(STAGE), pictures.bad_class_ids())
        network = optimising.unwrapped(model)
        accuracy = _accuracy(recipe, target, network, class_ids)
        teachers.save(network, target.path(*stage.split("/")), cfg.model, class_ids, accuracy)


def _accuracy(recipe: Recipe, target: Run, model: torch.nn.Module, classes: list[str]) -> float | None:
    if recipe.data.val is None:
        return None
    val = data.load_validation(target, recipe.data.val, classes, recipe.evaluate.size)
    return training.accuracy(model, val, trainers.device())


def _class_sets(recipe: Recipe, everything: list[str]) -> list[list[str]]:
    """The classes of each set on which students are trained, once each; the whole split has theirs."""
    own = recipe.distill.sets
    evaluated = [own[name] for name in recipe.evaluate.sets or own if name in own]
    found = [sorted(set(each.classes or everything)) for each in evaluated]
    found += [list(facts.class_ids) for facts in foreign_sets.look(recipe, Run(recipe.run_dir)).values()]
    return [list(classes) for classes in dict.fromkeys(map(tuple, found))]


def _is_whole(cfg: Teacher, folder: str, classes: list[str], size: int) -> bool:
    try:
        teachers.load(cfg, folder, classes, size)
    except UserError:
        return False
    return True


def _whence(name: str, cfg: Teacher) -> str:
    with teachers.named(name):
        source = "published weights" if cfg.weights == "published" else f"the weights of {cfg.weights}"
        return f"{teachers.name(name, cfg)} has {source}"


def _called(name: str) -> str:
    """What the lines of a training begin with."""
    return f"{STAGE}/{name}" if name else STAGE


def _file_name(stage: str) -> str:
    return re.sub(r"[^\w.=~-]", "_", stage)


def _in_words(target: Run, stage: str, folder: str) -> str:
    summary = target.require(stage, STAGE)
    accuracy = summary["accuracy"]
    measured = "" if accuracy is None else f", {accuracy:.1%} right on the validation split"
    return f"{summary['classes']} classes{measured} → {folder}"
