"""The foreign sets of a recipe, by the classes of its run."""

from collections.abc import Mapping, Sequence

from ddps_ray import manifest
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.selection import sets
from ddps_ray.storage import Run
from ddps_ray.students import foreign, protocols
from ddps_ray.students import sets as training_sets
from ddps_ray.students.foreign import Facts
from ddps_ray.students.sets import TrainingSet


def look(recipe: Recipe, run: Run) -> dict[str, Facts]:
    """What each foreign set is on which students are trained; the files of one that has not changed are not read again.

    Args:
        recipe: The recipe; its data set has been indexed.
        run: Its run directory.

    Raises:
        UserError: A set is not there, or not as its settings and the data set's classes want it.
    """
    known, only = _known_classes(recipe, run), recipe.evaluate.ipc
    found = {
        name: foreign.look(name, recipe.evaluate.foreign[name], *known, _record(run)) for name in sets.foreign(recipe)
    }
    return {name: facts for name, facts in found.items() if only is None or facts.ipc in only}


def check_protocols(recipe: Recipe, soft: bool) -> None:
    """Sees to it that each protocol suits a set.

    Args:
        recipe: The recipe.
        soft: Whether any set has soft labels of its own.

    Raises:
        UserError: One needs such a set, and there is none.
    """
    useless = [preset for preset in recipe.evaluate.protocols if protocols.needs_soft_labels(preset) and not soft]
    if useless:
        raise UserError(
            f"evaluate.protocols: {useless[0]} is for sets with soft labels of their own, and none has them"
        )


def check_tested(recipe: Recipe, run: Run, theirs: Mapping[str, Sequence[str]]) -> None:
    """Sees to it that there are validation images of all classes of some foreign sets.

    Args:
        recipe: The recipe.
        run: Its run directory.
        theirs: The classes of each set.

    Raises:
        UserError: There are none of one.
    """
    tested = set(sets.images_by_class(run, str(recipe.data.val))) if theirs else set()
    for name, class_ids in theirs.items():
        if lacking := [class_id for class_id in class_ids if class_id not in tested]:
            raise UserError(
                f"evaluate.foreign.{name}: split {recipe.data.val!r} has no image of {len(lacking)} of its "
                f"{len(class_ids)} classes, {lacking[0]!r} is one"
            )


def load(recipe: Recipe, run: Run, name: str, digest: str) -> TrainingSet:
    """Loads a foreign set for a training.

    Args:
        recipe: The recipe.
        run: Its run directory.
        name: Name of the set.
        digest: Its `foreign.identity` when the training was decided on.

    Raises:
        UserError: As in `look`; or it is another set now, or an image cannot be decoded.
    """
    labels, wnids = _known_classes(recipe, run)
    return training_sets.load_foreign(name, recipe.evaluate, labels, wnids, digest, _record(run))


def _record(run: Run) -> str:
    return run.path("evaluation", "foreign")


def _known_classes(recipe: Recipe, run: Run) -> tuple[dict[str, int], dict[str, str]]:
    """The label of each class id of the training split, and the WordNet ids that are known."""
    rows = manifest.classes(run, recipe.data.train)
    return dict(zip(rows["class_id"].to_pylist(), rows["label"].to_pylist(), strict=True)), manifest.wnids(run)
