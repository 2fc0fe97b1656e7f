"""All stages of a recipe, one after the other."""

from ddps_ray import manifest
from ddps_ray.config import Recipe
from ddps_ray.diffusion.checkpoint import PRETRAINED
from ddps_ray.pipeline import distill, evaluate, index, pretrain, score, teacher
from ddps_ray.report import page
from ddps_ray.storage import Run
from ddps_ray.students import teachers


def run(recipe: Recipe) -> None:
    """Runs every stage that the recipe has a use for; those that have finished do nothing.

    Raises:
        UserError: As each stage does.
    """
    index.run(recipe)
    _check_sets(recipe)
    if recipe.model.path == PRETRAINED:
        pretrain.run(recipe)
    score.run(recipe)
    distill.run(recipe)
    if recipe.data.val is not None:
        if recipe.teacher.weights == "trained":
            teacher.run(recipe)
        evaluate.run(recipe)
    page.run(recipe)


def _check_sets(recipe: Recipe) -> None:
    """Finds out now, not after hours of scoring, that a set names an unknown class, or one that the teacher lacks."""
    run = Run(recipe.run_dir)
    wanted = distill.wanted_classes(run, recipe)
    if recipe.data.val is not None and recipe.teacher.weights != "trained":
        wnids = manifest.wnids(run)
        for class_ids in wanted.values():
            teachers.check(recipe.teacher, "", class_ids, wnids)
