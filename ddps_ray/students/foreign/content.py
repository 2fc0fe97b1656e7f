"""What the readers of foreign sets give: images by class, as files or as tensors, and what they were read from."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pyarrow import fs
from torch import Tensor

from ddps_ray import storage, uris
from ddps_ray.errors import UserError, first_line

T = TypeVar("T")
_PART = 16 << 20
_THREADS = 16


@dataclass(frozen=True)
class Content:
    """A foreign set as it was read; the images of one with `uris` are still files.

    Attributes:
        ids: What each image is called.
        class_ids_N: The class of each image.
        class_ids: Classes of the set, sorted.
        size: Bytes of the files that were read.
        digest: Of the files' content, and of what each image is called.
        uris: Where each image is, as `sources.locators` has it; none where there are tensors.
        images_NCHW: The images, uint8, or float32 in 0..255 (values beyond are kept); None where there are files.
        given_NK: Soft labels as probabilities, their columns in the order of `class_ids`.
        notes: What the user should know, a line each.
    """

    ids: tuple[str, ...]
    class_ids_N: tuple[str, ...]
    class_ids: tuple[str, ...]
    size: int
    digest: str
    uris: tuple[str, ...] = ()
    images_NCHW: Tensor | None = None
    given_NK: Tensor | None = None
    notes: tuple[str, ...] = ()


def is_file(uri: str) -> bool:
    """Says whether a place is a file, and not a folder."""
    filesystem, path = storage.open_uri(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def split(place: str) -> tuple[str, str]:
    """Returns the folder that a place is in, and its name there, without a URI's options."""
    if not uris.is_uri(place):
        folder, _, name = place.rpartition("/")
        return folder or "/", name
    found = uris.parse(place)
    folder, _, name = found.path.rpartition("/")
    return str(uris.Uri(found.store, folder, found.options)), name


def of_file(uri: str) -> tuple[int, str]:
    """Returns the bytes of a file, and a digest of its content.

    Raises:
        UserError: It cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    filesystem, path = storage.open_uri(uri)
    try:
        with filesystem.open_input_file(path) as file:
            while part := file.read(_PART):
                digest.update(part)
                size += len(part)
    except OSError as error:
        raise UserError(f"{uri} cannot be read: {first_line(error)}") from error
    return size, digest.hexdigest()


def digest_of(parts: Iterable[str]) -> str:
    """Returns a digest of texts in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def in_order(class_ids_N: Sequence[str], names_N: Sequence[str] | None = None) -> list[int]:
    """Returns the places of images by class, then by name, then as they were: the order that our own sets have.

    Seeds draw places, so that the same images in another order would give another accuracy.

    Args:
        class_ids_N: The class of each image.
        names_N: What each is called inside its class; None where that is not known.
    """
    names_N = names_N or [""] * len(class_ids_N)
    return sorted(range(len(class_ids_N)), key=lambda place: (class_ids_N[place], names_N[place]))


def each(uris: Iterable[str], work: Callable[[str], T]) -> Iterator[T]:
    """Yields what `work` makes of each file, in order: a store answers slowly, so threads wait for it together."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(work, uris)
