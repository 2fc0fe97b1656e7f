"""The part of `ddps plan` about soft labels that are stored ahead: their bytes, and what it takes to make them."""

from collections.abc import Iterator
from dataclasses import dataclass

from ddps_ray.config import Recipe, Teacher
from ddps_ray.gpus import CARDS
from ddps_ray.planning_evaluation import Line, Trained, dtype_of, trained_on
from ddps_ray.quantities import amount, si
from ddps_ray.storage import Run
from ddps_ray.students import costs, labels, protocols, teachers
from ddps_ray.students.costs import Cost
from ddps_ray.students.labels import LabelSet
from ddps_ray.students.protocols import Facts


@dataclass(frozen=True)
class Kind:
    """Label sets that differ in their seeds alone.

    Attributes:
        name: Of the set, with its IPC, and of the teacher.
        teacher: The teacher.
        labels: One of them.
    """

    name: str
    teacher: Teacher
    labels: LabelSet

    @property
    def line(self) -> str:
        """What each is."""
        labels = self.labels
        shape = f"{labels.protocol.epochs} epochs of {labels.images:,} images in batches of {labels.protocol.batch}"
        return f"{si(labels.planned())}B each of {self.name}: {shape}"


def lines(recipe: Recipe, this: Run, utilisation: float) -> Iterator[Line]:
    """Yields what is to be printed; nothing if no labels are stored.

    Args:
        recipe: The recipe; its data set has been indexed.
        this: Its run directory.
        utilisation: Share of a GPU's peak operations that is reached.
    """
    if recipe.evaluate.labels is None or recipe.data.val is None:
        return
    found, seeds = kinds(recipe, this), len(set(recipe.evaluate.seeds))
    if not found:
        return
    total = seeds * sum(kind.labels.planned() for kind in found)
    yield "labels", f"{si(total)}B in {seeds * len(found)} label sets, a seed each of {seeds}; made by `ddps relabel`"
    for kind in found:
        yield "", kind.line
    cost, dtype = sum((_cost(recipe, kind) for kind in found), costs.NOTHING) * seeds, dtype_of(recipe)
    hours = (f"{amount(cost.hours(card, dtype, utilisation))} h on {card.name} ({card.gib:g} GiB)" for card in CARDS)
    yield "", f"of one GPU to make them all: {', '.join(hours)}"


def kinds(recipe: Recipe, this: Run) -> list[Kind]:
    """The label sets of one seed, of our own sets and of the whole training split, in the recipe's order."""
    layout = str(this.require("index", "index").get("layout", recipe.data.layout))
    found: dict[object, Kind] = {}
    for one in trained_on(recipe, this):
        for name, about in recipe.all_teachers.items():
            for each in _label_sets(recipe, one, about, layout):
                views = tuple(getattr(each.protocol, setting) for setting in labels.VIEWS)
                kind = Kind(f"{one.name}, {teachers.name(name, about)}", about, each)
                found.setdefault((one.name, name, views, each.kept), kind)
    return list(found.values())


def _label_sets(recipe: Recipe, one: Trained, teacher: Teacher, layout: str) -> Iterator[LabelSet]:
    cfg, classes = recipe.evaluate, len(one.class_ids)
    facts = Facts(one.ipc, classes, one.images, one.mosaic, cfg.size, layout, teacher.model.arch)
    for preset in cfg.protocols:
        for student in cfg.students:
            protocol = protocols.resolve(preset, cfg, facts, student)
            if cfg.labels is not None and protocol.teacher:
                kept = labels.kept_of(cfg.labels, classes, protocol)
                yield LabelSet("", one.images, protocol, 0, cfg.size, kept)


def _cost(recipe: Recipe, kind: Kind) -> Cost:
    classes, size = kind.labels.kept.classes, recipe.evaluate.size
    return costs.forward(kind.teacher.model, classes, size, dtype_of(recipe)) * kind.labels.rows
