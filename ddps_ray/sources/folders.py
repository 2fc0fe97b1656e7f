"""What lies in a folder, at any path or URI; and the images of a class that has one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import fs

from ddps_ray import imaging, storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import leftovers, listing, locators
from ddps_ray.sources.leftovers import Leftovers
from ddps_ray.sources.listing import Classes


@dataclass(frozen=True)
class Entries:
    """What lies in a folder, sorted, as names or as paths inside; hidden files and folders do not count.

    Attributes:
        files: The files.
        folders: The subfolders.
        passed: Those subfolders that systems leave, whose contents do not count.
        dangling: Links that lead nowhere.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    passed: tuple[str, ...]
    dangling: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Files, and what would be some if its link led anywhere."""
        return tuple(sorted((*self.files, *self.dangling)))


_remembered: ContextVar[dict[str, Entries] | None] = ContextVar("_remembered", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within it, each folder is looked into once; not so in threads that are begun there."""
    before = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(before)


def look(folder: str) -> Entries:
    """Says what lies in a folder itself.

    Raises:
        UserError: It cannot be listed, or a name is not UTF-8.
    """
    known = _remembered.get()
    if known is None:
        return _look(folder)
    if folder not in known:
        known[folder] = _look(folder)
    return known[folder]


def _look(folder: str) -> Entries:
    filesystem, base = storage.open_uri(folder)
    if filesystem.type_name == "gcs":  # which lists no folder that only its files make
        return _at_the_top(folder)
    if isinstance(filesystem, fs.LocalFileSystem):
        return _entries(folder, base, lambda: _here(filesystem, base))
    return _entries(folder, base, lambda: filesystem.get_file_info(fs.FileSelector(base)))


def has(folder: str, name: str) -> bool:
    """Says whether a folder has a file or a subfolder of a name; no where it cannot be listed."""
    try:
        here = look(folder)
    except UserError:
        return False
    return name in here.files or name in here.folders


def tree(folder: str) -> Entries:
    """Says what lies in a folder and below it; errors as in `look`."""
    filesystem, base = storage.open_uri(folder)
    if isinstance(filesystem, fs.LocalFileSystem):
        return _entries(folder, base, lambda: _walk(filesystem, base))
    return _entries(folder, base, lambda: filesystem.get_file_info(fs.FileSelector(base, recursive=True)))


def files(folder: str) -> list[str]:
    """Returns, sorted, the names of a folder's files; errors as in `look`."""
    return list(look(folder).files)


def folders(folder: str) -> list[str]:
    """Returns, sorted, the names of a folder's subfolders; errors as in `look`."""
    return list(look(folder).folders)


@lru_cache
def _at_the_top(folder: str) -> Entries:
    """A listing of all that is below, which takes minutes: once is enough while a data set is listed."""
    below = tree(folder)
    made = {path.partition("/")[0] for path in (*below.files, *below.folders) if "/" in path}
    names, folders, passed = (
        tuple(path for path in paths if "/" not in path) for paths in (below.files, below.folders, below.passed)
    )
    return Entries(names, tuple(sorted(made | set(folders))), passed)


def forget() -> None:
    """Forgets which subfolders there were: before and after a data set is listed."""
    _at_the_top.cache_clear()


@lru_cache
def extensions() -> tuple[str, ...]:
    """How an image's name ends, by Pillow's own table of the formats that are decoded."""
    formats = Image.registered_extensions()
    return tuple(sorted(each for each, name in formats.items() if name in imaging.FORMATS))


def is_image(name: str) -> bool:
    """Says whether a file is called as images are, in capitals or not; if it is one is found out by decoding it."""
    return name.lower().endswith(extensions())


def read_text(uri: str, key: str) -> str:
    """Reads a text file.

    Args:
        uri: Where it is.
        key: Setting or section that it belongs to, for the error.

    Raises:
        UserError: It cannot be read, or is not UTF-8.
    """
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{key}: {uri} cannot be read: {first_line(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {uri} is not UTF-8 text") from error


def check_root(root: str) -> None:
    """Sees to it that a data set is there.

    Raises:
        UserError: It is not.
    """
    if not storage.exists(root):
        raise UserError(f"data.root: {root} does not exist")


def images(folder: str, called: str, left: Leftovers) -> list[str]:
    """Returns, sorted, the paths inside a folder of the images in it and below.

    Args:
        folder: The folder.
        called: What it is called inside the data set.
        left: Takes what else lies there.

    Raises:
        UserError: It has none, or cannot be listed.
    """
    return _images(folder, called, left, tree(folder))


def images_in(folder: str, called: str, left: Leftovers) -> list[str]:
    """Returns, sorted, the names of the images in a folder itself; arguments and errors as in `images`."""
    return _images(folder, called, left, look(folder))


def _images(folder: str, called: str, left: Leftovers, found: Entries) -> list[str]:
    names = [name for name in found.files if is_image(name)]
    others = Leftovers(folders=[f"{called}/{path}" for path in found.passed], dangling=len(found.dangling))
    if len(names) < len(found.files):
        kept = set(names)
        others.add_files(name for name in found.files if name not in kept)
    if not names:
        instead = f", but {leftovers.in_words(others.endings)}" if others.endings else ""
        instead += f", but {leftovers.links(others.dangling)}" if others.dangling else ""
        raise UserError(f"data: {folder} has no images{instead}")
    left.add(others)
    return names


def rows(split: str, folder: str, owners: Mapping[str, str], known: Classes) -> pa.Table:
    """Returns the rows of a folder's images, ordered by class and name; `owners` has the class of each path inside."""
    ordered = sorted((class_id, name) for name, class_id in owners.items())
    return listing.rows(
        split,
        [f"{split}/{class_id}/{name}" for class_id, name in ordered],
        [locators.whole(storage.join(folder, name)) for _, name in ordered],
        [class_id for class_id, _ in ordered],
        known,
    )


def _here(filesystem: fs.FileSystem, base: str) -> list[fs.FileInfo]:
    """What lies in a folder of this machine, sorted, with the links that lead nowhere, which Arrow leaves out."""
    found = filesystem.get_file_info(fs.FileSelector(base))
    names = {info.base_name for info in found}
    every = (path.name for path in Path(base).iterdir())
    lost = [fs.FileInfo(f"{base}/{name}", fs.FileType.NotFound) for name in every if name not in names]
    return sorted([*found, *lost], key=lambda info: str(info.path))


_Id = tuple[int, int]
"""Device and number of a folder, whatever links lead there."""


def _walk(filesystem: fs.FileSystem, base: str) -> Iterator[fs.FileInfo]:
    """Goes down a tree, but not into what does not count: the owner of a `lost+found` does not let others read it.

    A link is followed, but never to a folder that it is in; and inside a linked folder, where links to links could be
    without end, only to a folder that has not been seen.
    """
    seen = {_id(base)}
    pending = [(base, frozenset(seen), False)]
    while pending:
        folder, above, linked = pending.pop()
        for info in _here(filesystem, folder):
            yield info
            if info.type != fs.FileType.Directory or _is_hidden(info.base_name) or _leads_back(Path(info.path)):
                continue
            here, is_link = _id(info.path), Path(info.path).is_symlink()
            if here not in above and not (is_link and linked and here in seen):
                seen.add(here)
                pending.append((info.path, above | {here}, linked or is_link))


def _id(folder: str) -> _Id:
    found = Path(folder).stat()
    return found.st_dev, found.st_ino


def _entries(folder: str, base: str, found: Callable[[], Iterable[fs.FileInfo]]) -> Entries:
    """Sorts what is found in a folder."""
    kinds: dict[fs.FileType, list[str]] = {
        kind: [] for kind in (fs.FileType.File, fs.FileType.Directory, fs.FileType.NotFound)
    }
    passed = set()
    try:
        for info in found():
            path = info.path.removeprefix(base).lstrip("/")
            is_folder = info.type == fs.FileType.Directory
            parent, _, name = path.rpartition("/")
            system, hidden = _uncounted(path if is_folder else parent)
            if system:
                passed.add(system)
            elif info.type in kinds and not hidden and not name.startswith("."):
                kinds[info.type].append(path)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {folder} has a file whose name is not UTF-8: {error.object!r}") from error
    except OSError as error:
        raise UserError(f"data: {folder} cannot be listed: {first_line(error)}") from error
    names, folders, dangling = (tuple(sorted(paths)) for paths in kinds.values())
    return Entries(names, folders, tuple(sorted(passed)), dangling)


@lru_cache
def _uncounted(folder: str) -> tuple[str, bool]:
    """The part of a folder's path that ends with one that a system leaves, if any, and whether a part is hidden."""
    parts = folder.split("/")
    systems = next((n for n, part in enumerate(parts, 1) if leftovers.is_system(part)), 0)
    return "/".join(parts[:systems]), any(part.startswith(".") for part in parts)


def _leads_back(folder: Path) -> bool:
    """Says whether a folder is a link to one that it is in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or leftovers.is_system(name)
