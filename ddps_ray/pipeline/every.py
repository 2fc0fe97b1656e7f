"""All stages of a recipe, one after the other."""

from ddps_ray.config import Recipe
from ddps_ray.pipeline import distill, evaluate, index, pretrain, score, teacher
from ddps_ray.report import page


def run(recipe: Recipe) -> None:
    """Runs every stage that the recipe has a use for; those that have finished do nothing.

    Raises:
        UserError: As each stage does.
    """
    index.run(recipe)
    if recipe.model.path == "pretrained":
        pretrain.run(recipe)
    score.run(recipe)
    distill.run(recipe)
    if recipe.data.val is not None:
        if recipe.teacher.weights == "trained":
            teacher.run(recipe)
        evaluate.run(recipe)
    page.run(recipe)
