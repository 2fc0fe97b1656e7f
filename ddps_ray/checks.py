"""What the recipe, the index and the configuration files decide, decided before the first expensive stage."""

from collections.abc import Iterator, Mapping, Sequence

from ddps_ray import manifest
from ddps_ray.config import Recipe, Teacher
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion import small, suitability
from ddps_ray.diffusion.staging import MODEL_FOLDER, PRETRAINED
from ddps_ray.errors import UserError
from ddps_ray.report import localisation
from ddps_ray.selection import sets
from ddps_ray.storage import Run
from ddps_ray.students import networks, teachers
from ddps_ray.students.sets import look_at_foreign


def check(recipe: Recipe, fetch: bool = True) -> list[str]:
    """Looks for mistakes that a later stage would meet.

    Args:
        recipe: The recipe; its data set has been indexed.
        fetch: Whether the weights of teachers, published ones or files, are fetched and tried, and not only looked up.

    Returns:
        What can be meant, and mostly is not, a line each; what the scoring asks of model and prompts is said by itself.

    Raises:
        UserError: Model and settings do not suit each other, a set asks for classes or images that are not there, a
            set of another program is not as it must be, a network cannot be built, a teacher does not know a class or
            its weights cannot be had or do not fit, or the file of true boxes cannot be read.
    """
    run = Run(recipe.run_dir)
    _model(recipe, run)
    wanted = sets.class_ids(run, recipe)
    _sets(recipe, run, wanted)
    if recipe.report.boxes is not None:
        localisation.read_boxes(recipe.report.boxes)
    if recipe.data.val is None:
        return ["data.val is null: no teacher is trained and no student tested; the distilled sets are what is made"]
    evaluated: dict[str, Sequence[str]] = {name: wanted[name] for name, _ in sets.evaluated(recipe)}
    evaluated |= {name: facts.class_ids for name, facts in look_at_foreign(recipe, run)}
    _networks(recipe, run, evaluated, fetch)
    return list(untested(recipe, run, evaluated))


def _model(recipe: Recipe, run: Run) -> None:
    if recipe.model.path == PRETRAINED and run.summary("pretrain") is None:
        suitability.check(small.geometry(recipe.pretrain), recipe.score)
        return
    folder = checkpoints.locate(recipe.model, run.path(MODEL_FOLDER), weights=False)
    suitability.check(checkpoints.geometry(folder), recipe.score)


def _sets(recipe: Recipe, run: Run, wanted: dict[str, list[str]]) -> None:
    there = sets.images_by_class(run, recipe.data.train)
    for name, class_ids in wanted.items():
        counts = {class_id: there[class_id] for class_id in class_ids}
        for ipc in recipe.distill.sets[name].ipc:
            if wrong := sets.too_small(recipe, name, ipc, counts):
                raise UserError(wrong)


def _networks(recipe: Recipe, run: Run, evaluated: Mapping[str, Sequence[str]], fetch: bool) -> None:
    """Builds each network without its weights' memory."""
    names = [networks.name(student) for student in recipe.evaluate.students]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"evaluate.students: {twice[0]} is there twice")
    for class_ids in evaluated.values():
        for student in recipe.evaluate.students:
            networks.check(student, len(class_ids), recipe.evaluate.size)
    if not teachers.needed(recipe.evaluate):
        return
    for name, cfg in recipe.all_teachers.items():
        with teachers.named(name):
            _teacher(recipe, run, cfg, evaluated, fetch)


def _teacher(recipe: Recipe, run: Run, cfg: Teacher, evaluated: Mapping[str, Sequence[str]], fetch: bool) -> None:
    """Asks a teacher whether it knows the classes of each set, and has its weights brought here and tried."""
    size, wnids = recipe.evaluate.size, manifest.wnids(run)
    if cfg.weights == "trained":
        everything = len(sets.images_by_class(run, recipe.data.train))
        for classes in {len(class_ids) for class_ids in evaluated.values()} if cfg.scope == "set" else {everything}:
            networks.check(cfg.model, classes, size)
        return
    for class_ids in evaluated.values():
        teachers.check(cfg, "", class_ids, wnids)
    if fetch:
        teachers.load(cfg, "", next(iter(evaluated.values())), size, wnids)


def untested(recipe: Recipe, run: Run, evaluated: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Looks for classes without a validation image.

    Args:
        recipe: The recipe.
        run: Its run; the data set has been indexed.
        evaluated: Classes of each set on which students are trained.

    Yields:
        Which of our own sets have some, a line each.

    Raises:
        UserError: A set has no other classes; or a foreign one has some, whose accuracy would be that of a part of it.
    """
    tested = set(sets.images_by_class(run, str(recipe.data.val)))
    for name, class_ids in evaluated.items():
        if lacking := [class_id for class_id in class_ids if class_id not in tested]:
            what = f"split {recipe.data.val!r} has no image of {len(lacking)} of the {len(class_ids)} classes"
            if name in recipe.evaluate.foreign:
                raise UserError(
                    f"evaluate.foreign.{name}: {what}, {lacking[0]!r} is one: no student can be tested on it"
                )
            if len(lacking) == len(class_ids):
                raise UserError(f"distill.sets.{name}: {what}, so that no student can be tested")
            yield f"distill.sets.{name}: {what}, {lacking[0]!r} is one: students are tested on the others only"
