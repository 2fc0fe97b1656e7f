"""All stages of a recipe, one after the other."""

from collections.abc import Iterator

from ddps_ray import checks
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.diffusion.checkpoint import PRETRAINED
from ddps_ray.pipeline import cluster, distill, evaluate, index, pretrain, relabel, score, teacher, trainers
from ddps_ray.report import page
from ddps_ray.storage import Run
from ddps_ray.students import teachers


def run(recipe: Recipe) -> None:
    """Runs every stage that the recipe has a use for; those that have finished do nothing.

    Raises:
        UserError: As each stage does; what can be known after the index is known then, and not after hours of scoring.
    """
    index.run(recipe)
    for doubt in checks.check(recipe, fetch=_evaluates(recipe)):
        say(f"run: {doubt}")
    _check_workers(recipe)
    if recipe.model.path == PRETRAINED:
        pretrain.run(recipe)
    score.run(recipe)
    distill.run(recipe)
    if recipe.data.val is not None:
        if _needs_training(recipe):
            teacher.run(recipe)
        if recipe.evaluate.labels is not None and not evaluate.is_done(recipe):
            relabel.run(recipe)
        evaluate.run(recipe)
    page.run(recipe)


def _check_workers(recipe: Recipe) -> None:
    """Finds out whether a training that is left would ask for more workers than the cluster has room for."""
    wanted = set(workers(recipe))
    if wanted:
        cluster.connect(recipe)
    for count in wanted:
        trainers.slots(count, recipe)


def workers(recipe: Recipe) -> Iterator[int]:
    """Yields how many workers each training that is left to do asks for."""
    run = Run(recipe.run_dir)
    if recipe.model.path == PRETRAINED and run.summary(pretrain.STAGE) is None:
        yield recipe.pretrain.workers
    if recipe.data.val is not None and _needs_training(recipe):
        for name, class_ids in teacher.trainings(recipe):
            if not teacher.is_done(recipe, name, class_ids):
                yield recipe.all_teachers[name].workers
    if _evaluates(recipe):
        yield recipe.evaluate.workers


def _needs_training(recipe: Recipe) -> bool:
    """Says whether students have a teacher that `ddps teacher` trains."""
    trained = any(cfg.weights == "trained" for cfg in recipe.all_teachers.values())
    return trained and teachers.needed(recipe.evaluate)


def _evaluates(recipe: Recipe) -> bool:
    """Says whether students are to be trained."""
    return recipe.data.val is not None and not evaluate.is_done(recipe)
