"""What a student's training needs, loaded on a worker; and whether a teacher is one, which is measured beforehand."""

import json
from collections.abc import Sequence

import torch
from ray.train import TrainingFailedError
from torch import nn

from ddps_ray import foreign_sets, manifest, storage
from ddps_ray.config import WHOLE, Recipe
from ddps_ray.console import say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import teacher, trainers
from ddps_ray.pipeline.cells import FOLDER, FOREIGN, Cell, Trained
from ddps_ray.selection import sets as distilled_sets
from ddps_ray.storage import Run
from ddps_ray.students import data, sets, teachers, training
from ddps_ray.students.sets import TrainingSet

_IMAGENET = 1000  # classes


def check_teachers(recipe: Recipe, target: Run, grid: Sequence[Cell]) -> None:
    """Looks whether the teachers of some cells are there and know the classes, without loading their weights.

    Raises:
        UserError: One does not.
    """
    wnids = manifest.wnids(target)
    for name, class_ids in dict.fromkeys((cell.teacher, cell.set.class_ids) for cell in grid if cell.protocol.teacher):
        about = recipe.all_teachers[name]
        stage, folder = teacher.location(recipe, name, class_ids)
        if about.weights == "trained":
            target.require(stage, "teacher")
        teachers.check(about, folder, class_ids, wnids)


def try_teachers(recipe: Recipe, target: Run, todo: Sequence[Cell], stage: str) -> None:
    """Measures each teacher once on the classes that it teaches, and says how good it is.

    Args:
        recipe: The recipe.
        target: Its run directory.
        todo: The cells that it teaches.
        stage: What the lines begin with.

    Raises:
        UserError: One is no teacher of these classes.
    """
    tried = {(cell.teacher, cell.set.class_ids): cell for cell in todo if cell.protocol.teacher}
    for (name, class_ids), cell in tried.items():
        about = recipe.all_teachers[name]
        uri = measured_at(recipe, target, cell)
        if not storage.exists(uri):
            _measure(recipe, target, cell)
        found = json.loads(storage.read_bytes(uri))
        called = teachers.name(name, about)
        measured = f"{found['accuracy']:.1%} of {found['images']} images of {len(class_ids)} classes"
        say(f"{stage}: teacher {called}: {measured}")
        expected = teachers.expected_accuracy(about, len(class_ids) == _IMAGENET, recipe.evaluate.size)
        if wrong := teachers.verdict(found["accuracy"], found["images"], len(class_ids), expected):
            raise UserError(f"teacher {called}: {wrong}")
    theirs = (cell for cell in todo if cell.protocol.teacher and cell.set.selector == FOREIGN)
    for cell in {(cell.teacher, cell.set.name): cell for cell in theirs}.values():
        say(f"{stage}: {_labels(recipe, target, cell)}")


def _labels(recipe: Recipe, target: Run, cell: Cell) -> str:
    """Says how much a teacher gets right of a foreign set's own images, by the set's labels, and doubts them."""
    uri = measured_at(recipe, target, cell, own_images=True)
    if not storage.exists(uri):
        _measure(recipe, target, cell, own_images=True)
    found = json.loads(storage.read_bytes(uri))
    share = f"{found['accuracy']:.1%} of its {found['images']} images right"
    measured = f"evaluate.foreign.{cell.set.name}: teacher {cell.called} gets {share}"
    doubt = teachers.doubt_of_labels(found["accuracy"], found["images"], len(cell.set.class_ids))
    return f"warning: {measured}, {doubt}" if doubt else measured


def _measure(recipe: Recipe, target: Run, cell: Cell, own_images: bool = False) -> None:
    arguments, kind = {"recipe": recipe, "cell": cell, "own_images": own_images}, "labels" if own_images else "teacher"
    try:
        trainers.fit(measure_teacher, arguments, target, f"{kind}-{cell.key}", 1, recipe)
    except TrainingFailedError as error:
        raise UserError(f"teacher {cell.called}: {trainers.reason(error, target)}") from error


def measure_teacher(recipe: Recipe, cell: Cell, own_images: bool = False) -> None:
    """What a worker does: measures a teacher on some images, and writes it.

    Args:
        recipe: The recipe.
        cell: It has teacher and set.
        own_images: On those of the set, whole, by the set's labels; else on the validation images of its classes.
    """
    target, on = Run(recipe.run_dir), device(recipe)
    shown = load_set(recipe, target, cell.set).pictures if own_images else load_val(recipe, target, cell.set)
    fixed = load_teacher(recipe, target, cell).to(on)
    measured = training.accuracy(fixed, shown, on, in_bfloat16(recipe, on))
    about = {"accuracy": measured, "images": len(shown) - len(shown.bad)}
    storage.write_json(measured_at(recipe, target, cell, own_images), about)


def measured_at(recipe: Recipe, target: Run, cell: Cell, own_images: bool = False) -> str:
    """URI of what `try_teachers` has measured of a cell's teacher; arguments as of `measure_teacher`."""
    settings = json.loads(cell.settings)
    shown = cell.set.digest if own_images else settings["val_digest"]
    key = storage.digest([settings["teacher"], recipe.evaluate.size, shown, cell.set.class_ids])
    return target.path(FOLDER, "teachers", f"{key}.json")


def load_set(recipe: Recipe, target: Run, about: Trained) -> TrainingSet:
    """What a student is trained on.

    Raises:
        UserError: It has changed since it was looked at, or is damaged.
    """
    if about.selector == WHOLE:
        split, classes = recipe.data.train, list(about.class_ids)
        return TrainingSet(data.load_training(target, split, classes, recipe.evaluate.size), False)
    if about.selector == FOREIGN:
        return foreign_sets.load(recipe, target, about.name, about.digest)
    distilled = sets.load_distilled(about.uri, about.class_ids, recipe.evaluate.size)
    if distilled_sets.digest(about.uri) != about.digest:
        raise UserError(f"{about.uri} {sets.CHANGED}")
    return distilled


def load_val(recipe: Recipe, target: Run, about: Trained) -> data.Pictures:
    """The validation images of a set's classes."""
    return data.load_validation(target, str(recipe.data.val), list(about.class_ids), recipe.evaluate.size)


def load_teacher(recipe: Recipe, target: Run, cell: Cell) -> nn.Module:
    """A cell's teacher, on the CPU."""
    _, folder = teacher.location(recipe, cell.teacher, cell.set.class_ids)
    about, wnids = recipe.all_teachers[cell.teacher], manifest.wnids(target)
    return teachers.load(about, folder, list(cell.set.class_ids), recipe.evaluate.size, wnids)


def device(recipe: Recipe) -> torch.device:
    """Where this worker computes; what is to be float32 is not TF32 there, as PyTorch has it in convolutions."""
    if recipe.evaluate.precision == "float32":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return trainers.device()


def in_bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """Whether networks compute in bfloat16 there."""
    asked = recipe.evaluate.precision
    if asked == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return asked == "bfloat16"
