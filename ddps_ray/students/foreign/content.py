"""What is known of a foreign set, kept beside the run so that no file is read for it twice, and the set in memory."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pyarrow import fs
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ddps_ray import storage, uris
from ddps_ray.errors import UserError, first_line
from ddps_ray.students import images
from ddps_ray.students.data import Pictures

T = TypeVar("T")
_PART = 16 << 20
_THREADS = 16


@dataclass(frozen=True)
class Facts:
    """What a foreign set is.

    Attributes:
        images: Number of images.
        counts: Number of images of each class id.
        class_ids: Its classes, sorted: the order of labels and of soft labels.
        size: Bytes of its files.
        digest: Of their content, of what each image is called, and of the classes that the user gives.
        side: Pixels of the shorter edge that most images have.
        soft: Whether it has soft labels of its own.
        notes: What the user should know, a line each.
    """

    images: int
    counts: dict[str, int]
    class_ids: tuple[str, ...]
    size: int
    digest: str
    side: int
    soft: bool
    notes: tuple[str, ...]

    @property
    def ipc(self) -> int:
        """Images per class, rounded; at least 1."""
        return max(1, round(self.images / len(self.class_ids)))


@dataclass(frozen=True)
class Foreign:
    """A foreign set that can be trained on.

    Attributes:
        pictures: Its images, by the largest soft label where there are some; floats are neither rounded nor clipped.
        given_NK: Its own soft labels as float32 probabilities, or None.
        class_ids: Its classes, sorted.
        size: Bytes of its files.
        digest: As in `Facts`, of what has been read.
    """

    pictures: Pictures
    given_NK: Tensor | None
    class_ids: tuple[str, ...]
    size: int
    digest: str


class Opened(Protocol):
    """A set that is there and of a known format."""

    def facts(self, record: str | None) -> Facts:
        """Says what it is; reads its files if that is not recorded in the folder `record`, if any."""

    def load(self, size: int, record: str | None) -> Foreign:
        """Reads it whole, its images at size×size."""


_FACTS = TypeAdapter(Facts)


def recorded(record: str | None, files: Sequence[str], about: object, make: Callable[[], Facts]) -> Facts:
    """Returns what is recorded of a set, or else makes and records it.

    Args:
        record: Folder of the records; None to do without.
        files: Locators of all that the facts depend on; a file that has changed is another.
        about: What they depend on besides.
        make: Reads the files.
    """
    if record is None:
        return make()
    key = digest_of([images.name(files, "facts", 0), repr(about)])
    uri = storage.join(record, f"{key}.json")
    try:
        return _FACTS.validate_json(storage.read_bytes(uri))
    except (FileNotFoundError, ValidationError):
        found = make()
        storage.write_bytes(uri, _FACTS.dump_json(found))
        return found


def facts(
    class_ids_N: Sequence[str], class_ids: tuple[str, ...], sizes: Sequence[tuple[int, int]], size: int, digest: str
) -> Facts:
    """What a set of hard labels is.

    Args:
        class_ids_N: The class of each image.
        class_ids: The classes, sorted.
        sizes: Width and height of each image.
        size: Bytes of its files.
        digest: Of their content.
    """
    counts = dict.fromkeys(class_ids, 0) | Counter(class_ids_N)
    side = Counter(map(min, sizes)).most_common(1)[0][0]
    notes = (*unequal(counts), *_oblong(sizes))
    return Facts(len(class_ids_N), counts, class_ids, size, digest, side, soft=False, notes=notes)


def unequal(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Warns where classes differ in number."""
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[least] == counts[most]:
        return ()
    return (
        f"its classes differ in number: {counts[least]} images of {least}, {counts[most]} of {most}; "
        "its IPC is their rounded mean",
    )


def _oblong(sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    count = sum(width != height for width, height in sizes)
    return (f"{count} of its images are not square: of those the middle is taken",) if count else ()


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
