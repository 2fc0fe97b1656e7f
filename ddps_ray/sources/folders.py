"""What lies in a folder, at any path or URI; and the images of a class that has one."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import listing, locators
from ddps_ray.sources.listing import Classes

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""How an image's name ends, in capitals or not; whether it is one is found out when it is decoded."""


def files(folder: str, recursive: bool = False) -> list[str]:
    """Returns, sorted, the paths inside a folder of its files, without hidden ones.

    Raises:
        UserError: It cannot be listed, or a name is not UTF-8.
    """
    return _entries(folder, fs.FileType.File, recursive)


def folders(folder: str) -> list[str]:
    """Returns, sorted, the names of a folder's subfolders, without hidden ones; errors as in `files`."""
    if storage.open_uri(folder)[0].type_name == "gcs":  # which lists no folder that only its files make
        return list(_made_by_files(folder))
    return _entries(folder, fs.FileType.Directory, False)


@lru_cache
def _made_by_files(folder: str) -> tuple[str, ...]:
    """A listing of all that is below, which takes minutes: once is enough while a data set is listed."""
    return tuple(sorted({path.partition("/")[0] for path in files(folder, recursive=True) if "/" in path}))


def forget() -> None:
    """Forgets which subfolders there were: before and after a data set is listed."""
    _made_by_files.cache_clear()


def is_folder(uri: str) -> bool:
    """Says whether a folder is there."""
    filesystem, path = storage.open_uri(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


def is_image(name: str) -> bool:
    """Says whether a file is called as images are."""
    return name.lower().endswith(EXTENSIONS)


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


def check_splits(root: str, splits: Sequence[str]) -> None:
    """Sees to it that each split has a folder.

    Raises:
        UserError: One has none; the message names those that are there.
    """
    check_root(root)
    there = folders(root)
    for split in splits:
        if split not in there:
            raise UserError(f"data: {root} has no folder {split!r}; it has {', '.join(there) or 'none at all'}")


def class_ids(root: str, split: str) -> list[str]:
    """Returns, sorted, the names of a split's class folders.

    Raises:
        UserError: There are none.
    """
    folder = storage.join(root, split)
    found = folders(folder)
    if not found:
        raise UserError(f"data: {folder} has no class folders")
    return found


def of_class(root: str, split: str, class_id: str, known: Classes, inner: str = "") -> tuple[pa.Table, int]:
    """Lists the images in a class folder, and below it.

    Args:
        root: Data set.
        split: Split.
        class_id: Name of the class folder.
        known: The classes.
        inner: Folder inside the class folder that has the images, and is not a part of their ids.

    Returns:
        Its rows, ordered by id, and the number of other files.

    Raises:
        UserError: The class is not known, or has no images.
    """
    folder = storage.join(root, split, class_id)
    if class_id not in known.labels:
        raise UserError(f"data: {folder} is of a class that the training split does not have")
    place = storage.join(folder, inner) if inner else folder
    names = files(place, recursive=True)
    images = [name for name in names if is_image(name)]
    if not images:
        raise UserError(f"data: {place} has no images")
    return rows(split, place, dict.fromkeys(images, class_id), known), len(names) - len(images)


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


def _entries(folder: str, kind: fs.FileType, recursive: bool) -> list[str]:
    filesystem, base = storage.open_uri(folder)
    try:
        found = filesystem.get_file_info(fs.FileSelector(base, recursive=recursive))
        paths = sorted(info.path.removeprefix(base).lstrip("/") for info in found if info.type == kind)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {folder} has a file whose name is not UTF-8: {error.object!r}") from error
    except OSError as error:
        raise UserError(f"data: {folder} cannot be listed: {first_line(error)}") from error
    return [path for path in paths if not any(part.startswith(".") for part in path.split("/"))]
