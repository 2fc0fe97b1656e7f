"""What a recipe's sets ask of the data set: which classes, and how many images of each."""

from collections.abc import Mapping

import pyarrow.dataset as ds

from ddps_ray import manifest
from ddps_ray.config import Distill, Recipe
from ddps_ray.errors import UserError
from ddps_ray.selection.budget import shortage
from ddps_ray.storage import Run


def images_by_class(run: Run, split: str) -> dict[str, int]:
    """Images of each class of a split.

    Raises:
        UserError: The stage `index` has not finished.
    """
    rows = manifest.dataset(run).to_table(columns=["class_id"], filter=ds.field("split") == split)
    return {count["values"]: count["counts"] for count in rows["class_id"].value_counts().to_pylist()}


def class_ids(run: Run, recipe: Recipe) -> dict[str, list[str]]:
    """The class ids of each set, sorted.

    Raises:
        UserError: A set names a class that the training split does not have.
    """
    known = set(images_by_class(run, recipe.data.train))
    for name, wanted in recipe.distill.sets.items():
        if unknown := sorted(set(wanted.classes or ()) - known):
            raise UserError(f"distill.sets.{name}.classes: there is no class {unknown[0]!r} in {run.path('manifest')}")
    return {name: sorted(set(wanted.classes or known)) for name, wanted in recipe.distill.sets.items()}


def too_small(name: str, ipc: int, settings: Distill, counts: Mapping[str, int]) -> str | None:
    """Says why a set cannot hold what its name says; None if it can.

    Args:
        name: Name of the set.
        ipc: Images per class.
        settings: Settings of the stage.
        counts: For each of its classes the images there are, of those that are scored if scoring has finished.
    """
    least = min(counts, key=lambda class_id: counts[class_id])
    if not counts[least]:
        return f"distill.sets.{name}.classes: class {least!r} has no scored image; name classes without it"
    short = shortage(ipc, counts[least], settings.mosaic_up_to)
    return f"distill.sets.{name}.ipc: class {least!r}: {short}" if short else None


def evaluated(recipe: Recipe) -> list[tuple[str, int]]:
    """Name and IPC of each set on which students are trained, in the recipe's order.

    Raises:
        UserError: There is none.
    """
    only = recipe.evaluate.ipc
    found = [
        (name, ipc)
        for name in recipe.evaluate.sets or recipe.distill.sets
        for ipc in dict.fromkeys(recipe.distill.sets[name].ipc)
        if only is None or ipc in only
    ]
    if not found:
        raise UserError(f"evaluate.ipc: nothing to do: no set has an IPC of {list(only or ())}")
    return found
