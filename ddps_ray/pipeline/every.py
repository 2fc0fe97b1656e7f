"""All stages of a recipe, one after the other."""

from ddps_ray import checks
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.diffusion.checkpoint import PRETRAINED
from ddps_ray.pipeline import cluster, distill, evaluate, index, pretrain, score, teacher, trainers
from ddps_ray.report import page


def run(recipe: Recipe) -> None:
    """Runs every stage that the recipe has a use for; those that have finished do nothing.

    Raises:
        UserError: As each stage does; what can be known after the index is known then, and not after hours of scoring.
    """
    index.run(recipe)
    for doubt in checks.check(recipe):
        say(f"run: {doubt}")
    _check_workers(recipe)
    if recipe.model.path == PRETRAINED:
        pretrain.run(recipe)
    score.run(recipe)
    distill.run(recipe)
    if recipe.data.val is not None:
        if recipe.teacher.weights == "trained":
            teacher.run(recipe)
        evaluate.run(recipe)
    page.run(recipe)


def _check_workers(recipe: Recipe) -> None:
    """Finds out whether a training would ask for more workers than the cluster has room for."""
    cluster.connect(recipe)
    gpu = cluster.trains_on_gpus(recipe)
    if recipe.model.path == PRETRAINED:
        trainers.slots(recipe.pretrain.workers, gpu)
    if recipe.data.val is not None:
        for workers in {recipe.evaluate.workers, recipe.teacher.workers}:
            trainers.slots(workers, gpu)
