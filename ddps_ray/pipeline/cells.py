"""The grid of evaluation: one cell is a student on a set, by a protocol, under a teacher, with a seed."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from ddps_ray import foreign_sets, manifest, storage
from ddps_ray.config import WHOLE, Recipe, Student, Teacher
from ddps_ray.errors import UserError
from ddps_ray.pipeline import teacher
from ddps_ray.selection import sets
from ddps_ray.storage import Run
from ddps_ray.students import data, foreign, networks, protocols, teachers
from ddps_ray.students.protocols import Facts, Protocol

FOLDER = "evaluation"
"""Folder of the run directory that the rows go to."""

TENSORBOARD = "tensorboard"
"""Folder of the run directory that the curves of trainings go to."""

FOREIGN = "foreign"
"""How a set of another program was selected, as far as can be told."""

FAILED = "failed"
"""Folder below it, of the students that could not be trained."""

_NO_NAME = re.compile(r"[^\w.=-]+")


@dataclass(frozen=True)
class Trained:
    """A set on which students are trained.

    Attributes:
        name: Its name in the recipe.
        selector: How it was selected; for other sets, what it is.
        ipc: Images per class.
        class_ids: Its classes, sorted: the order of the students' outputs.
        uri: Its folder; of the whole split, "".
        images: How many it has.
        mosaic: Whether they are mosaics.
        digest: Of what it holds.
        bytes: Of its image files; None of the whole split.
        soft: Whether it has soft labels of its own.
        notes: What the user should know of it, a line each.
    """

    name: str
    selector: str
    ipc: int
    class_ids: tuple[str, ...]
    uri: str
    images: int
    mosaic: bool
    digest: str
    bytes: int | None
    soft: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One student.

    Attributes:
        set: What it is trained on.
        teacher: Name of the teacher in the recipe.
        called: What tables call it.
        student: The network.
        protocol: How it is trained.
        seed: Seed of weights, order and augmentation.
        settings: All that its accuracy depends on besides the set's images and the seed, as JSON.
    """

    set: Trained
    teacher: str
    called: str
    student: Student
    protocol: Protocol
    seed: int
    settings: str

    @cached_property
    def key(self) -> str:
        """What it depends on, seed and set included, in a few letters."""
        text = f"{self.settings}/{self.set.digest}/{manifest.class_digest(self.set.class_ids)}/{self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """What a line about it begins with."""
        parts = (self.set.name, f"ipc={self.set.ipc}", networks.name(self.student), self.protocol.name)
        return "/".join(part for part in (*parts, self.teacher) if part)

    @property
    def file(self) -> str:
        """Name of its row's file."""
        return _NO_NAME.sub("_", f"{self.title}_seed={self.seed}_{self.key}.parquet")

    @property
    def folder(self) -> tuple[str, ...]:
        """Names of the folders, each in the one before, that have files of its own."""
        parts = (*self.title.split("/"), f"seed={self.seed}_{self.key}")
        return tuple(_NO_NAME.sub("_", part) for part in parts)

    def is_done(self, run: Run) -> bool:
        """Whether it has its row."""
        return storage.exists(run.path(FOLDER, self.file))


def unfinished(grid: Iterable[Cell], run: Run) -> list[Cell]:
    """The cells that have no row, by one listing of the folder."""
    there = {info.base_name for info in storage.list_files(run.path(FOLDER), recursive=False)}
    return [cell for cell in grid if cell.file not in there]


def of(recipe: Recipe) -> list[Cell]:
    """All cells of a recipe.

    Raises:
        UserError: A set is missing, there is none, a student is there twice, or a protocol suits no set.
    """
    names = [networks.name(student) for student in recipe.evaluate.students]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"evaluate.students: {twice[0]} is there twice")
    found = list(_cells(recipe, Run(recipe.run_dir)))
    foreign_sets.check_protocols(recipe, any(cell.set.soft for cell in found))
    return found


def _cells(recipe: Recipe, run: Run) -> Iterator[Cell]:
    cfg, layout = recipe.evaluate, run.require("index", "index")["layout"]
    tests: dict[tuple[str, ...], str] = {}
    taught = _all_taught(recipe)
    for trained in _sets(recipe, run):
        if trained.class_ids not in tests:
            tests[trained.class_ids] = manifest.images_digest(run, str(recipe.data.val), trained.class_ids)
        for preset, name, about in _lessons(recipe):
            if protocols.needs_soft_labels(preset) and not trained.soft:
                continue
            facts = Facts(
                ipc=trained.ipc,
                classes=len(trained.class_ids),
                images=trained.images,
                mosaic=trained.mosaic,
                size=cfg.size,
                layout=layout,
                teacher=about.model.arch if about else None,
            )
            called = teachers.name(name, about) if about else "none"
            for student in cfg.students:
                protocol = protocols.resolve(preset, cfg, facts, student)
                tested = {"val": recipe.data.val, "val_digest": tests[trained.class_ids]}
                settings = _settings(recipe, trained, taught[name] if about else None, student, protocol, tested)
                for seed in dict.fromkeys(cfg.seeds):
                    yield Cell(trained, name, called, student, protocol, seed, settings)


def _lessons(recipe: Recipe) -> Iterator[tuple[str, str, Teacher | None]]:
    """Each protocol with each teacher, or once without one."""
    for preset in dict.fromkeys(recipe.evaluate.protocols):
        if protocols.needs_teacher(preset):
            yield from ((preset, name, about) for name, about in recipe.all_teachers.items())
        else:
            yield preset, "", None


def _settings(
    recipe: Recipe,
    trained: Trained,
    taught: dict[str, Any] | None,
    student: Student,
    protocol: Protocol,
    tested: Mapping[str, Any],
) -> str:
    values: dict[str, Any] = asdict(protocol) | {
        **tested,
        "size": recipe.evaluate.size,
        "width": networks.width(student),
        "precision": recipe.evaluate.precision,
        "classes": len(trained.class_ids),
        "teacher": taught,
    }
    if protocol.teacher and recipe.evaluate.labels is not None:
        values["labels"] = recipe.evaluate.labels.model_dump(mode="json")
    return json.dumps(values, sort_keys=True)


def _all_taught(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What each teacher depends on; nothing where none is needed."""
    if not teachers.needed(recipe.evaluate):
        return {}
    found = {}
    for name in recipe.all_teachers:
        with teachers.named(name):
            found[name] = _taught(recipe, name)
    return found


def _taught(recipe: Recipe, name: str) -> dict[str, Any]:
    """What a teacher depends on: its training, or which weights it has."""
    about = recipe.all_teachers[name]
    if about.weights == "trained":
        return teacher.settings(recipe, name) | {"scope": about.scope}
    values = about.model_dump(mode="json", include={"weights", "class_order", "mean", "std"})
    values["name"] = teachers.name("", about)
    return values if (content := teachers.content(about)) is None else values | {"content": content}


def _sets(recipe: Recipe, run: Run) -> Iterator[Trained]:
    found = [*_own(recipe, run), *_foreign(recipe, run)]
    if not found:
        raise sets.nothing(recipe)
    yield from found
    if recipe.evaluate.whole:
        counts = sets.images_by_class(run, recipe.data.train)
        for whole in sets.wholes(counts, (trained.class_ids for trained in found)):
            digest = manifest.images_digest(run, recipe.data.train, whole.class_ids)
            yield Trained(WHOLE, WHOLE, whole.ipc, whole.class_ids, "", whole.images, False, digest, None)


def _foreign(recipe: Recipe, run: Run) -> Iterator[Trained]:
    for name, facts in foreign_sets.look(recipe, run).items():
        about = recipe.evaluate.foreign[name]
        known = (facts.class_ids, about.path, facts.images, about.mosaic, foreign.identity(about, facts.digest))
        yield Trained(name, FOREIGN, facts.ipc, *known, facts.size, facts.soft, facts.notes)


def _own(recipe: Recipe, run: Run) -> Iterator[Trained]:
    everything = tuple(data.class_ids(run, recipe.data.train))
    for name, ipc in sets.evaluated(recipe):
        stage, uri = sets.location(run, recipe, name, ipc)
        if not storage.exists(storage.join(uri, "metadata.parquet")):
            run.require(stage, "distill")
        asked = recipe.distill.sets[name]
        classes = tuple(sorted(set(asked.classes or everything)))
        rows = sets.read_metadata(uri)
        images, mosaic = pc.count_distinct(rows["file"]).as_py(), bool(pc.max(rows["slot"]).as_py())
        digest, size = sets.digest(uri), sets.bytes_of(uri)
        yield Trained(name, asked.selector, ipc, classes, uri, images, mosaic, digest, size)
