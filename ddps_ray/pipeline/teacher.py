"""Stage `teacher`: the classifier that teaches the students, trained with Ray Train where none is published."""

from typing import Any

import torch

from ddps_ray import manifest
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cluster, trainers
from ddps_ray.storage import Run
from ddps_ray.students import data, networks, teachers, training

STAGE = "teacher"
"""Name of the stage, and of its folder in the run directory."""


def run(recipe: Recipe) -> None:
    """Trains the recipe's teacher on the training split and saves it under `teacher/`.

    A training that was cut short goes on from its last checkpoint. Published weights need no training.

    Raises:
        UserError: The manifest is missing, or has no such split, or the architecture does not suit.
    """
    if recipe.teacher.weights != "trained":
        say(f"teacher: nothing to train: {teachers.name(recipe.teacher)} has published weights")
        return
    target = Run(recipe.run_dir)
    manifest.indexed(target, recipe.data.train)
    classes = data.class_ids(target, recipe.data.train)
    networks.check(recipe.teacher.model, len(classes), recipe.evaluate.size)
    say(
        f"teacher: {networks.name(recipe.teacher.model)} on {len(classes)} classes at {recipe.evaluate.size} px, "
        f"{recipe.teacher.epochs} epochs"
    )
    if target.claim(STAGE, settings(recipe)):
        if _is_whole(recipe, target, classes):
            say(f"teacher: already finished: {_in_words(target)}")
            return
        say("teacher: it was finished, but its files are gone or damaged: training it again")
        target.reopen(STAGE)
    cluster.connect(recipe)
    trainers.fit(train, {"recipe": recipe}, target, STAGE, recipe.teacher.workers, recipe)
    target.finish(STAGE, {"accuracy": teachers.describe(target.path(STAGE))["accuracy"], "classes": len(classes)})
    say(f"teacher: {_in_words(target)}")


def _is_whole(recipe: Recipe, target: Run, classes: list[str]) -> bool:
    try:
        teachers.load(recipe.teacher, target.path(STAGE), classes, recipe.evaluate.size)
    except UserError:
        return False
    return True


def settings(recipe: Recipe) -> dict[str, Any]:
    """All that a trained teacher depends on."""
    return {
        "teacher": recipe.teacher.model_dump(mode="json"),
        "size": recipe.evaluate.size,
        "train": recipe.data.train,
        "val": recipe.data.val,
    }


def train(recipe: Recipe) -> None:
    """What each worker does: trains, and on rank 0 keeps checkpoints, measures and saves."""
    target, cfg, size = Run(recipe.run_dir), recipe.teacher, recipe.evaluate.size
    classes = data.class_ids(target, recipe.data.train)
    pictures = data.load_training(target, recipe.data.train, classes, size)
    share = trainers.share()
    torch.manual_seed(cfg.seed)
    model = trainers.prepare(networks.build(cfg.model, len(classes), size))

    def checkpoint(state: teachers.State, loss: float) -> None:
        if share.rank == 0:
            say(f"teacher: epoch {state['epochs']} of {cfg.epochs}, loss {loss:.4f}")
        trainers.report({"loss": loss}, None if share.rank else state)

    teachers.train(model, pictures, cfg, size, checkpoint, trainers.saved_state(target, STAGE), share)
    if share.rank == 0:
        trainers.write_quarantine(target, STAGE, pictures.quarantine(STAGE), pictures.bad_class_ids())
        network = training.unwrapped(model)
        teachers.save(network, target.path(STAGE), cfg.model, classes, _accuracy(recipe, target, network, classes))


def _accuracy(recipe: Recipe, target: Run, model: torch.nn.Module, classes: list[str]) -> float | None:
    if recipe.data.val is None:
        return None
    val = data.load_validation(target, recipe.data.val, classes, recipe.evaluate.size)
    return training.accuracy(model, val, trainers.device())


def _in_words(target: Run) -> str:
    summary = target.require(STAGE, STAGE)
    accuracy = summary["accuracy"]
    measured = "" if accuracy is None else f", {accuracy:.1%} right on the validation split"
    return f"{summary['classes']} classes{measured} → {target.path(STAGE)}"
