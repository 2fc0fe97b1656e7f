"""What lies in a folder, at any path or URI; and the images of a class that has one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    passed: tuple[str, ...]


def look(folder: str) -> Entries:
    """Says what lies in a folder itself.

    Raises:
        UserError: It cannot be listed, or a name is not UTF-8.
    """
    filesystem, base = storage.open_uri(folder)
    if filesystem.type_name == "gcs":  # which lists no folder that only its files make
        return _at_the_top(folder)
    return _entries(folder, base, lambda: filesystem.get_file_info(fs.FileSelector(base)))


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


def is_folder(uri: str) -> bool:
    """Says whether a folder is there."""
    filesystem, path = storage.open_uri(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


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
    others = Leftovers(folders=[f"{called}/{path}" for path in found.passed])
    if len(names) < len(found.files):
        kept = set(names)
        others.add_files(name for name in found.files if name not in kept)
    if not names:
        instead = f", but {leftovers.in_words(others.endings)}" if others.endings else ""
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


def _walk(filesystem: fs.FileSystem, base: str) -> Iterator[fs.FileInfo]:
    """Goes down a tree, but not into what does not count: the owner of a `lost+found` does not let others read it."""
    pending = [base]
    while pending:
        for info in filesystem.get_file_info(fs.FileSelector(pending.pop())):
            yield info
            if info.type == fs.FileType.Directory and not (_is_hidden(info.base_name) or _leads_back(Path(info.path))):
                pending.append(info.path)


def _entries(folder: str, base: str, found: Callable[[], Iterable[fs.FileInfo]]) -> Entries:
    """Sorts what is found in a folder."""
    kinds: dict[fs.FileType, list[str]] = {fs.FileType.File: [], fs.FileType.Directory: []}
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
    names, folders = (tuple(sorted(kinds[kind])) for kind in kinds)
    return Entries(names, folders, tuple(sorted(passed)))


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
