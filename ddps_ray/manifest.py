"""The manifest: the list of a run's images, which `index` writes and every later stage reads."""

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset as ds

from ddps_ray import schemas, storage
from ddps_ray.errors import UserError
from ddps_ray.storage import Run

FOLDER = "manifest"
"""Its folder in the run directory."""

_ROWS_PER_GROUP = 10_000


def write(run: Run, split: str, rows: pa.Table, rows_per_file: int = 100_000, first: int = 0) -> list[str]:
    """Writes the rows of a split, in their order, as `manifest/<split>-<number>.parquet`.

    Files count only when the record of the stage `index` names them; see `files`.

    Args:
        run: Run directory.
        split: Name of the split.
        rows: Rows of `schemas.MANIFEST`.
        rows_per_file: At most so many go into a file.
        first: Number of the first file.

    Returns:
        The names of the files.
    """
    schemas.check(rows, schemas.MANIFEST)
    names = []
    for number, start in enumerate(range(0, rows.num_rows, rows_per_file), first):
        names.append(f"{split}-{number:05d}.parquet")
        storage.write_table(run.path(FOLDER, names[-1]), rows.slice(start, rows_per_file), _ROWS_PER_GROUP)
    return names


def files(run: Run, split: str | None = None) -> list[str]:
    """Returns the paths, in their file system, of the files that have the manifest, or that of one split, in order.

    Those that `index --refresh` is writing, or has replaced and not yet deleted, are not among them.

    Raises:
        UserError: The stage `index` has not finished, or a file is missing.
    """
    if gone := missing(run):
        raise UserError(f"{run.path(FOLDER, gone[0])} is missing: `ddps index` makes it again")
    return _there(run, split)


def missing(run: Run) -> list[str]:
    """Returns the names of the files that have been deleted; errors as in `dataset`."""
    named = run.require("index", "index").get("files", [])
    there = {file.base_name for file in storage.list_files(run.path(FOLDER))}
    return [name for name in named if name not in there]


def _there(run: Run, split: str | None = None) -> list[str]:
    named = run.require("index", "index").get("files")
    return [
        file.path
        for file in storage.list_files(run.path(FOLDER))
        if (named is None or file.base_name in named) and (split is None or file.base_name.rpartition("-")[0] == split)
    ]


def prune(run: Run) -> None:
    """Deletes the files that do not count: what a finished refresh has replaced, or one that was cut off has left."""
    kept = set(_there(run))
    filesystem, _ = storage.open_uri(run.path(FOLDER))
    for file in list(storage.list_files(run.path(FOLDER))):
        if file.path not in kept:
            filesystem.delete_file(file.path)


def indexed(run: Run, split: str) -> int:
    """Returns the number of images of the training split, by the record of the stage `index`.

    Raises:
        UserError: The stage has not finished, or has listed no such split.
    """
    images = run.require("index", "index")["splits"].get(split)
    if images is None:
        raise UserError(f"data.train: the index in {run.uri} has no split {split!r}")
    return int(images)


def dataset(run: Run) -> ds.Dataset:
    """Opens the manifest for reading, by column and filter.

    Raises:
        UserError: The stage `index` has not finished, or a file is missing.
    """
    paths = files(run)
    filesystem, _ = storage.open_uri(run.path(FOLDER))
    return schemas.dataset(paths, filesystem, schemas.MANIFEST)


def classes(run: Run, split: str | None = None) -> pa.Table:
    """Returns class_id, class_text and label of each class, in the order of the labels; errors as in `dataset`.

    Args:
        run: Run directory.
        split: A split whose classes are wanted; by default those of all.
    """
    columns = ["class_id", "class_text", "label"]
    rows = dataset(run).to_table(columns=columns, filter=None if split is None else pc.field("split") == split)
    return rows.group_by(columns, use_threads=False).aggregate([]).sort_by("label")


def class_digest(class_ids: Iterable[str]) -> str:
    """Digest of a set of classes, the same in any order."""
    return hashlib.sha256("\n".join(sorted(class_ids)).encode()).hexdigest()[:16]


def wnids(run: Run) -> dict[str, str]:
    """Returns the WordNet id of each class id for which it is known; errors as in `dataset`."""
    rows = dataset(run).to_table(columns=["class_id", "wnid"], filter=pc.field("wnid").is_valid())
    pairs = rows.group_by(["class_id", "wnid"], use_threads=False).aggregate([])
    return dict(zip(pairs["class_id"].to_pylist(), pairs["wnid"].to_pylist(), strict=True))


def known_classes(run: Run, split: str) -> tuple[dict[str, int], dict[str, str]]:
    """Returns the label of each class id of a split, and the WordNet ids that are known; errors as in `dataset`."""
    rows = classes(run, split)
    return dict(zip(rows["class_id"].to_pylist(), rows["label"].to_pylist(), strict=True)), wnids(run)


def count(run: Run, split: str) -> int:
    """Returns the number of images of a split; errors as in `dataset`."""
    return int(dataset(run).count_rows(filter=pc.field("split") == split))
