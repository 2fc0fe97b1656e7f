"""What a recipe's sets ask of the data set, what each depends on, and where it lies."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from ddps_ray import manifest, schemas, storage
from ddps_ray.config import Recipe
from ddps_ray.errors import BadImage, UserError, first_line
from ddps_ray.selection.budget import shortage
from ddps_ray.sources.reading import read_image
from ddps_ray.storage import Run

METADATA = "metadata.parquet"
"""A set's rows of `schemas.DISTILLED`; written when all its images are there."""

_MOSAIC, _SINGLE = "mosaic", "single"
PATCHES = {_MOSAIC: 4, _SINGLE: 1}
"""Patches in an image, by its composition."""

_UNUSED = {"random": ("clusters", "top_clusters")}
"""Settings of `distill` on which the choice of a selector does not depend."""


class Location(NamedTuple):
    """Where one set at one IPC is.

    Attributes:
        stage: Its name in the run's record.
        uri: Its folder.
    """

    stage: str
    uri: str


class Whole(NamedTuple):
    """All training images of some classes.

    Attributes:
        class_ids: The classes, in the order of a set that has them.
        ipc: Images per class, on average.
        images: Their number.
    """

    class_ids: tuple[str, ...]
    ipc: int
    images: int


def wholes(counts: Mapping[str, int], class_ids_of_sets: Iterable[tuple[str, ...]]) -> Iterator[Whole]:
    """Yields what `evaluate.whole` adds to some sets: the training split once for the classes of each.

    Args:
        counts: Training images of each class.
        class_ids_of_sets: The classes of each set.
    """
    for class_ids in dict.fromkeys(class_ids_of_sets):
        images = sum(counts[class_id] for class_id in class_ids)
        yield Whole(class_ids, round(images / len(class_ids)), images)


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


def is_mosaic(recipe: Recipe, name: str, ipc: int) -> bool:
    """Says whether an image of a set is a mosaic of four patches; of whole images only where the set asks for it."""
    composition = recipe.distill.sets[name].composition
    if composition == "auto":
        return recipe.score.patch != "full" and ipc <= recipe.distill.mosaic_up_to
    return composition == _MOSAIC


def too_small(recipe: Recipe, name: str, ipc: int, counts: Mapping[str, int]) -> str | None:
    """Says why a set cannot hold what its name says; None if it can.

    Args:
        recipe: The recipe.
        name: Name of the set.
        ipc: Images per class.
        counts: For each of its classes the images there are, of those that are scored if scoring has finished.
    """
    least = min(counts, key=lambda class_id: counts[class_id])
    if not counts[least]:
        return f"distill.sets.{name}.classes: class {least!r} has no scored image; name classes without it"
    short = shortage(ipc, counts[least], mosaic=is_mosaic(recipe, name, ipc))
    return f"distill.sets.{name}.ipc: class {least!r}: {short}" if short else None


def evaluated(recipe: Recipe) -> list[tuple[str, int]]:
    """Name and IPC of each set of our own on which students are trained, in the recipe's order.

    Raises:
        UserError: There is none, and no foreign one.
    """
    only, own = recipe.evaluate.ipc, recipe.distill.sets
    found = [
        (name, ipc)
        for name in recipe.evaluate.sets or own
        if name in own
        for ipc in dict.fromkeys(own[name].ipc)
        if only is None or ipc in only
    ]
    if not found and not foreign(recipe):
        raise nothing(recipe)
    return found


def nothing(recipe: Recipe) -> UserError:
    """Says that there is no set on which students are trained."""
    return UserError(f"evaluate.ipc: nothing to do: no set has an IPC of {list(recipe.evaluate.ipc or ())}")


def foreign(recipe: Recipe) -> list[str]:
    """Names of the foreign sets on which students are trained."""
    return [name for name in recipe.evaluate.foreign if name in (recipe.evaluate.sets or recipe.evaluate.foreign)]


def settings(recipe: Recipe, name: str, ipc: int) -> dict[str, Any]:
    """All that a set at one IPC depends on, besides the scores, as JSON values."""
    distill, wanted = recipe.distill, recipe.distill.sets[name]
    stage = distill.model_dump(exclude={"sets", "mosaic_up_to"})
    own = {
        "selector": wanted.selector,
        "seed": wanted.seed,
        "classes": None if wanted.classes is None else sorted(set(wanted.classes)),
        "ipc": ipc,
        "composition": _MOSAIC if is_mosaic(recipe, name, ipc) else _SINGLE,
    }
    return _needed(stage | own)


def location(run: Run, recipe: Recipe, name: str, ipc: int) -> Location:
    """Where a set of the recipe is, or will be: beside those of the same name and IPC with other settings.

    Args:
        run: Run directory.
        recipe: The recipe.
        name: Name of the set.
        ipc: Images per class.

    Returns:
        `distill/<name>/ipc=<k>` and its folder for the settings that came first, with `~` and a digest for later ones.
    """
    stage, wanted = f"distill/{name}/ipc={ipc}", settings(recipe, name, ipc)
    first = run.record()["stages"].get(stage)
    if first is not None and as_now(first["settings"]) != wanted:
        stage = run.variant(stage, wanted)
    return Location(stage, folder(run, stage))


def folder(run: Run, stage: str) -> str:
    """The folder of a set, by its stage's name."""
    return run.path("distilled", *stage.split("/")[1:])


def as_now(recorded: dict[str, Any]) -> dict[str, Any]:
    """Settings from a run's record as `settings` has them: earlier ones tell for all IPCs which are mosaics."""
    found = dict(recorded)
    if "mosaic_up_to" in found:
        found["composition"] = _MOSAIC if found["ipc"] <= found.pop("mosaic_up_to") else _SINGLE
    return _needed(found)


def digest(uri: str) -> str:
    """SHA-256 of what a finished set holds: its metadata, row by row as in the file, and the size of its images.

    The same patches at the same size give the same digest, whoever wrote them, and with which version of what.

    Args:
        uri: Its folder.

    Raises:
        UserError: The metadata or the first image cannot be read.
    """
    rows = read_metadata(uri).to_pylist()
    digest = hashlib.sha256(json.dumps(_size(storage.join(uri, rows[0]["file"]))).encode())
    for row in rows:
        known = {name: value for name, value in row.items() if value is not None}  # as before a column came
        digest.update(json.dumps(known, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def bytes_of(uri: str) -> int:
    """Bytes of all image files of a finished set, from a listing.

    Args:
        uri: Its folder.
    """
    return sum(file.size for file in image_files(uri))


def image_files(uri: str) -> list[fs.FileInfo]:
    """Lists the image files of a set.

    Args:
        uri: Its folder.
    """
    files = storage.list_files(storage.join(uri, "train"))
    return [
        file for file in files if not file.base_name.startswith(".")
    ]  # which is one that was not written to its end


def read_metadata(uri: str) -> pa.Table:
    """Reads a set's rows of `schemas.DISTILLED`, in the order of the file.

    Args:
        uri: Its folder.

    Raises:
        UserError: They cannot be read, or are not what `distill` writes.
    """
    place = storage.join(uri, METADATA)
    filesystem, path = storage.open_uri(place)
    try:
        return schemas.check(schemas.dataset([path], filesystem, schemas.DISTILLED).to_table(), schemas.DISTILLED)
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        reason = first_line(error).rpartition(f"'{path}': ")[2].rstrip(".")
        raise UserError(f"{place}: {reason}: delete it, and `ddps distill` makes the set again") from error


def _needed(settings: dict[str, Any]) -> dict[str, Any]:
    unused = _UNUSED.get(settings["selector"], ())
    return {name: value for name, value in settings.items() if name not in unused}


def _size(uri: str) -> tuple[int, int]:
    try:
        return read_image(uri).size
    except BadImage as error:
        raise UserError(f"{uri} is in the set's metadata, but {error}") from error
