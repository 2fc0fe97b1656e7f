"""Distilled sets that other programs have made: checked before any training, and read as ours are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ddps_ray import storage
from ddps_ray.config import ForeignSet
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import folders
from ddps_ray.students.foreign import content, pictures, tensors
from ddps_ray.students.foreign.content import Facts, Foreign, Opened
from ddps_ray.students.foreign.naming import Naming

__all__ = ["Facts", "Foreign", "identity", "load", "look"]

_FORMATS: dict[str, tuple[Callable[[str], bool], Callable[[ForeignSet, Naming], Opened]]] = {
    "imagefolder": (pictures.has_folders, pictures.read_folders),
    "parquet": (pictures.has_parquet, pictures.read_parquet),
    "tensors": (tensors.has_tensors, tensors.Tensors),
}
"""How each format is recognised and opened."""

_OF_TENSORS = ("mean", "std", "soft_labels")


def look(
    name: str, settings: ForeignSet, labels: Mapping[str, int], wnids: Mapping[str, str], record: str | None = None
) -> Facts:
    """Checks a set: its files are read once, and not again until they change; of encoded images only the headers.

    Args:
        name: What the recipe calls the set, for errors and notes.
        settings: The set.
        labels: Number of each class id of the data set, as the manifest has them.
        wnids: WordNet ids of its class ids, where they are known.
        record: Folder that keeps what was found, under a key of the files' sizes and times; None to keep nothing.

    Raises:
        UserError: The set is not there, or not as its settings and the data set's classes want it.
    """
    with _named(name):
        found = _opened(settings, labels, wnids).facts(record)
    return replace(found, notes=tuple(f"{_key(name)}: {note}" for note in found.notes))


def load(
    name: str,
    settings: ForeignSet,
    labels: Mapping[str, int],
    wnids: Mapping[str, str],
    size: int,
    record: str | None = None,
) -> Foreign:
    """Reads a set whole. Encoded images are decoded once a node, into the cache, and not read otherwise.

    Args:
        name: As in `look`, and so are `settings`, `labels`, `wnids` and `record`.
        settings: The set.
        labels: Numbers of the class ids.
        wnids: WordNet ids.
        size: Side in pixels; images of another are resized, bicubically.
        record: Where `look` has kept what it found.

    Raises:
        UserError: As in `look`; or an image cannot be decoded: a distilled set is whole, or none; or there is no room.
    """
    with _named(name):
        return _opened(settings, labels, wnids).load(size, record)


def identity(settings: ForeignSet, digest: str) -> str:
    """What stands for a set wherever it lies: a digest of its content and of how it is read."""
    return storage.digest([digest, settings.model_dump(mode="json", exclude={"path"})])


def _key(name: str) -> str:
    return f"evaluate.foreign.{name}"


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the set in an error."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{_key(name)}: cannot be read: {first_line(error)}") from error
    except UserError as error:
        raise UserError(f"{_key(name)}: {str(error).removeprefix('data: ')}") from error


def _opened(settings: ForeignSet, labels: Mapping[str, int], wnids: Mapping[str, str]) -> Opened:
    if not storage.exists(settings.path):
        raise UserError(f"{settings.path} does not exist")
    kind = _format(settings)
    if kind != "tensors" and (stray := [key for key in _OF_TENSORS if key in settings.model_fields_set]):
        raise UserError(f"{stray[0]} is for tensors, and {settings.path} is read as {kind}")
    return _FORMATS[kind][1](settings, Naming(labels, wnids, settings.classes))


def _format(settings: ForeignSet) -> str:
    if settings.format != "auto":
        return settings.format
    could = [kind for kind, (recognises, _) in _FORMATS.items() if recognises(settings.path)]
    if len(could) == 1:
        return could[0]
    if could:
        raise UserError(f"{settings.path} could be read as {' or '.join(could)}: say in `format` which it is")
    raise UserError(
        f"{settings.path} has {_contents(settings.path)}: neither folders of images by class, nor Parquet files of "
        "images, nor tensors"
    )


def _contents(path: str) -> str:
    if content.is_file(path):
        return "another ending than .parquet, .pt, .pth and .safetensors"
    here = folders.look(path)
    return ", ".join([f"{name}/" for name in here.folders[:3]] + list(here.files[:3])) or "nothing in it"
