"""The ImageFolder layout, `<root>/<split>/<class>/**/<image>`, at any path or URI."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ddps_ray import storage
from ddps_ray.sources import classes, folders
from ddps_ray.sources.listing import Classes, Listing


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether the training split's folder has class folders."""
    train = storage.join(root, splits[0])
    return folders.is_folder(train) and bool(folders.folders(train))


def list_images(
    root: str, splits: Sequence[str], names: Mapping[str, str] | None = None, ground_truth: str | None = None
) -> Listing:
    """Lists a data set; the label of a class is its index among the sorted class ids of the first split.

    Args:
        root: Folder or URI of the data set, absolute, so that every worker can read the URIs of the rows.
        splits: Names of the split folders, the training split first.
        names: The user's names of the classes; see `classes.names`.
        ground_truth: Not used.

    Raises:
        UserError: A folder is absent or holds no images, a class has no name, or a later split has a class that the
            first one lacks.
    """
    folders.check_splits(root, splits)
    known = classes.ordered(folders.class_ids(root, splits[0]), names)
    listed = {split: list_split(root, split, known) for split in splits}
    return Listing(
        splits={split: rows for split, (rows, _) in listed.items()},
        class_texts=known.texts,
        skipped=sum(others for _, others in listed.values()),
    )


def list_split(root: str, split: str, known: Classes, inner: str = "") -> tuple[pa.Table, int]:
    """Returns a split's rows, ordered by class and id, and how many other files it has; see `folders.of_class`."""
    found = [folders.of_class(root, split, each, known, inner) for each in folders.class_ids(root, split)]
    loose = len(folders.files(storage.join(root, split)))
    return pa.concat_tables([rows for rows, _ in found]), loose + sum(others for _, others in found)
