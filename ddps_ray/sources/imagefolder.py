"""The ImageFolder layout, `<root>/<split>/<class>/**/<image>`, at any path or URI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from ddps_ray import schemas, storage
from ddps_ray.errors import UserError
from ddps_ray.sources import classes

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""How an image's name ends, in capitals or not; whether it is one is found out when it is decoded."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set.

    Attributes:
        splits: Rows of `schemas.MANIFEST` by split, ordered by (class_id, image_id), so that a class lies together.
        class_texts: The name of each class id, in the order of the labels.
        skipped: Files of the splits whose names are not those of images; hidden ones do not count.
    """

    splits: dict[str, pa.Table]
    class_texts: dict[str, str]
    skipped: int


def list_images(root: str, splits: Sequence[str], class_names: Mapping[str, str] | None = None) -> Listing:
    """Lists a data set; the label of a class is its index among the sorted class ids of the first split.

    Args:
        root: Folder or URI of the data set, absolute, so that every worker can read the URIs of the rows.
        splits: Names of the split folders, the training split first.
        class_names: The user's names of the classes; see `classes.names`.

    Raises:
        UserError: A folder is absent or holds no images, a class has no name, or a later split has a class that the
            first one lacks.
    """
    if not storage.exists(root):
        raise UserError(f"data.root: {root} does not exist")
    folders = _entries(root, fs.FileType.Directory)
    for split in splits:
        if split not in folders:
            raise UserError(f"data: {root} has no folder {split!r}; it has {', '.join(folders) or 'none at all'}")
    texts = classes.names(_class_ids(root, splits[0]), class_names)
    listed = {split: _list_split(root, split, texts) for split in splits}
    return Listing(
        splits={split: rows for split, (rows, _) in listed.items()},
        class_texts=texts,
        skipped=sum(others for _, others in listed.values()),
    )


def _class_ids(root: str, split: str) -> list[str]:
    folder = storage.join(root, split)
    class_ids = _entries(folder, fs.FileType.Directory)
    if not class_ids:
        raise UserError(f"data: {folder} has no class folders")
    return class_ids


def _list_split(root: str, split: str, texts: dict[str, str]) -> tuple[pa.Table, int]:
    """Returns a split's rows, and how many other files it has."""
    labels = {class_id: label for label, class_id in enumerate(texts)}
    tables = []
    skipped = len(_entries(storage.join(root, split), fs.FileType.File))
    for class_id in _class_ids(root, split):
        folder = storage.join(root, split, class_id)
        if class_id not in labels:
            raise UserError(f"data: {folder} is of a class that the training split does not have")
        names = _entries(folder, fs.FileType.File, recursive=True)
        images = [f"{split}/{class_id}/{name}" for name in names if name.lower().endswith(EXTENSIONS)]
        if not images:
            raise UserError(f"data: {folder} has no images")
        tables.append(_rows(root, split, class_id, texts[class_id], labels[class_id], images))
        skipped += len(names) - len(images)
    return pa.concat_tables(tables), skipped


def _rows(root: str, split: str, class_id: str, text: str, label: int, image_ids: list[str]) -> pa.Table:
    count = len(image_ids)
    columns = {
        "image_id": image_ids,
        "uri": [storage.join(root, image_id) for image_id in image_ids],
        "class_id": [class_id] * count,
        "class_text": [text] * count,
        "label": [label] * count,
        "split": [split] * count,
    }
    return schemas.table(columns, schemas.MANIFEST)


def _entries(folder: str, kind: fs.FileType, recursive: bool = False) -> list[str]:
    """Returns, sorted, the paths inside a folder of its files or its subfolders, without hidden ones."""
    filesystem, base = storage.open_uri(folder)
    try:
        found = filesystem.get_file_info(fs.FileSelector(base, recursive=recursive))
        paths = sorted(info.path.removeprefix(base).lstrip("/") for info in found if info.type == kind)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {folder} has a file whose name is not UTF-8: {error.object!r}") from error
    except OSError as error:
        raise UserError(f"data: {folder} cannot be listed: {str(error).splitlines()[0]}") from error
    return [path for path in paths if not any(part.startswith(".") for part in path.split("/"))]
