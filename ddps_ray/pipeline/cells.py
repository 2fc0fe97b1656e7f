"""The grid of evaluation: one cell is a student on a set, by a protocol, under a teacher, with a seed."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from ddps_ray import manifest, storage
from ddps_ray.config import WHOLE, Recipe, Student, Teacher
from ddps_ray.console import say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import teacher
from ddps_ray.selection import sets
from ddps_ray.storage import Run
from ddps_ray.students import data, networks, protocols, teachers
from ddps_ray.students.protocols import Facts, Protocol
from ddps_ray.students.sets import look_at_foreign

FOLDER = "evaluation"
"""Folder of the run directory that the rows go to."""

FOREIGN = "foreign"
"""How a set of another program was selected, as far as can be told."""

FAILED = "failed"
"""Folder below it, of the students that could not be trained."""


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
        return re.sub(r"[^\w.=-]+", "_", f"{self.title}_seed={self.seed}_{self.key}.parquet")

    def is_done(self, run: Run) -> bool:
        """Whether it has its row."""
        return storage.exists(run.path(FOLDER, self.file))


def of(recipe: Recipe) -> list[Cell]:
    """All cells of a recipe.

    Raises:
        UserError: A set is missing, there is none, or a student is there twice.
    """
    names = [networks.name(student) for student in recipe.evaluate.students]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"evaluate.students: {twice[0]} is there twice")
    return list(_cells(recipe, Run(recipe.run_dir)))


def _cells(recipe: Recipe, run: Run) -> Iterator[Cell]:
    cfg, layout = recipe.evaluate, run.require("index", "index")["layout"]
    for trained in _sets(recipe, run):
        for preset, name, about in _lessons(recipe):
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
                settings = _settings(recipe, trained, name if about else None, student, protocol)
                for seed in dict.fromkeys(cfg.seeds):
                    yield Cell(trained, name, called, student, protocol, seed, settings)


def _lessons(recipe: Recipe) -> Iterator[tuple[str, str, Teacher | None]]:
    """Each protocol with each teacher, or once without one."""
    for preset in dict.fromkeys(recipe.evaluate.protocols):
        if protocols.needs_teacher(preset):
            yield from ((preset, name, about) for name, about in recipe.all_teachers.items())
        else:
            yield preset, "", None


def _settings(recipe: Recipe, trained: Trained, teacher_name: str | None, student: Student, protocol: Protocol) -> str:
    taught = None if teacher_name is None else _taught(recipe, teacher_name)
    values: dict[str, Any] = asdict(protocol) | {
        "size": recipe.evaluate.size,
        "width": student.width,
        "precision": recipe.evaluate.precision,
        "val": recipe.data.val,
        "classes": len(trained.class_ids),
        "teacher": taught,
    }
    return json.dumps(values, sort_keys=True)


def _taught(recipe: Recipe, name: str) -> dict[str, Any]:
    """What a teacher depends on: its training, or which weights it has."""
    about = recipe.all_teachers[name]
    if about.weights == "trained":
        return teacher.settings(recipe, name) | {"scope": about.scope}
    return about.model_dump(mode="json", include={"weights", "class_order", "mean", "std"}) | {
        "name": teachers.name("", about)
    }


def _sets(recipe: Recipe, run: Run) -> Iterator[Trained]:
    found = [*_own(recipe, run), *_foreign(recipe, run)]
    yield from found
    if recipe.evaluate.whole:
        for class_ids in dict.fromkeys(trained.class_ids for trained in found):
            yield _whole(recipe, run, class_ids)


def _foreign(recipe: Recipe, run: Run) -> Iterator[Trained]:
    only = recipe.evaluate.ipc
    for name, facts in look_at_foreign(recipe, run):
        about = recipe.evaluate.foreign[name]
        for note in facts.notes:
            say(f"evaluate: warning: {name}: {note.removeprefix('warning: ')}")
        if only is None or facts.ipc in only:
            digest = storage.digest([facts.digest, about.model_dump(mode="json", exclude={"path"})])
            ids, uri = facts.class_ids, about.path
            yield Trained(name, FOREIGN, facts.ipc, ids, uri, facts.images, about.mosaic, digest, facts.size)


def _whole(recipe: Recipe, run: Run, class_ids: tuple[str, ...]) -> Trained:
    """All training images of some classes."""
    counts = sets.images_by_class(run, recipe.data.train)
    images = sum(counts[class_id] for class_id in class_ids)
    digest = run.require("index", "index")["fingerprint"]
    return Trained(WHOLE, WHOLE, round(images / len(class_ids)), class_ids, "", images, False, digest, None)


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
