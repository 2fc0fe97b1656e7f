"""The score shards of a run: counted by their footers, and kept in step with the checkpoints that Ray goes by."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from ddps_ray import schemas, storage
from ddps_ray.errors import UserError

FOLDER = "scores"
"""Their folder in the run directory."""

ROWS_PER_GROUP = 128
"""Rows in a row group: a class's rows are found by the groups' statistics, without reading the rest."""

_SUFFIX = ".parquet"
_PENDING = ".pending"
_THREADS = 16


@dataclass(frozen=True)
class Shard:
    """What a shard's footer says.

    Attributes:
        path: Where it is in its file system.
        rows: Its rows, those with an error included.
        errors: Those with an error.
        foreign: Whether it is no score shard at all: it has no column `error`.
    """

    path: str
    rows: int
    errors: int
    foreign: bool = False

    @property
    def commit(self) -> str:
        """Name of the checkpoint that Ray writes with it."""
        stem = _stem(self.path)
        return stem.rpartition("-")[0] or stem


class Footers:
    """The shards of a folder; each footer is read once, however often one looks."""

    def __init__(self, folder: str) -> None:
        """Takes the folder's URI; it need not be there yet."""
        self._folder = folder
        self._read: dict[str, Shard] = {}

    def look(self) -> tuple[list[Shard], list[str]]:
        """Reads the footers that are new.

        Returns:
            The shards, and the paths of files that are no whole Parquet: being written, or cut off in the middle.

        Raises:
            OSError: The store does not answer.
        """
        filesystem, _ = storage.open_uri(self._folder)
        paths = [file.path for file in storage.list_files(self._folder, recursive=False) if is_shard(file)]
        new = [path for path in paths if path not in self._read]
        with ThreadPoolExecutor(_THREADS) as threads:
            for path, shard in zip(new, threads.map(partial(_footer, filesystem), new), strict=True):
                if shard is not None:
                    self._read[path] = shard
        return [self._read[path] for path in paths if path in self._read], [p for p in paths if p not in self._read]


def dataset(scores: str, paths: Sequence[str]) -> ds.Dataset:
    """Opens shards for reading, by column and filter; a column that came after a shard was written is null in it.

    Args:
        scores: URI of their folder.
        paths: The shards, in its file system, at least one.

    Raises:
        pa.ArrowInvalid: The first of them is no Parquet file.
        UserError: It is no score shard.
    """
    filesystem, _ = storage.open_uri(scores)
    found = pq.read_schema(paths[0], filesystem=filesystem)
    size = feature_size(found)
    if size is None:
        raise UserError(f"{paths[0]} is not a score shard: it has no column `dift` of features; move it elsewhere")
    return schemas.dataset(paths, filesystem, schemas.scores(size))


def feature_size(found: pa.Schema) -> int | None:
    """Channels of the feature in a shard of this schema, or None if it is none."""
    place = found.get_field_index("dift")
    kind = found.field(place).type if place >= 0 else None
    return kind.list_size if isinstance(kind, pa.FixedSizeListType) else None


def is_shard(file: fs.FileInfo) -> bool:
    """Says whether a file of the folder is meant to be a shard; others are left over from an atomic write."""
    return bool(file.path.endswith(_SUFFIX)) and not file.base_name.startswith(".")


def arrange(rows: pa.Table) -> pa.Table:
    """Sorts the rows of a shard by class, so that a class's rows lie in few row groups."""
    return rows.sort_by([("class_id", "ascending"), ("image_id", "ascending")])


def reconcile(scores: str, commits: str) -> None:
    """Makes the checkpoints say what the shards hold, whatever was killed, whenever.

    Ray writes a pending checkpoint, the shard, and then moves the checkpoint to its final name; on an object store that
    move is a copy and a delete. A shard that can be read whole counts, whether or not Ray came to commit it, since its
    scores are what any other attempt would give; one that cannot is deleted, and its rows are scored again.

    A worker that outlives its killed job may still write: what it commits meanwhile is kept with its shard or withdrawn
    with it, and a shard that it ends later, without a checkpoint by then, is for `drop_repeated`.

    Args:
        scores: URI of the shards.
        commits: URI of the checkpoints.

    Raises:
        UserError: A file in the folder of the shards is none of them.
    """
    shards, broken = Footers(scores).look()
    for shard in shards:
        if shard.foreign:
            raise UserError(f"{shard.path} is not a score shard: it has no column `error`; move it elsewhere")
    filesystem, _ = storage.open_uri(scores)
    committed = _checkpoints(commits)
    for shard in shards:
        if committed.get(shard.commit) != shard.rows:
            ids = pq.read_table(shard.path, columns=["image_id"], filesystem=filesystem, partitioning=None)["image_id"]
            storage.write_table(storage.join(commits, shard.commit + _SUFFIX), pa.table({"image_id": ids}))
    _withdraw(commits, {shard.commit + _SUFFIX for shard in shards})
    left_over = [file.path for file in storage.list_files(scores, recursive=False) if _is_part(file)]
    for path in broken + left_over:
        _delete(filesystem, path)


def drop_failed(scores: str) -> int:
    """Deletes the rows with an error, shard by shard; `reconcile` must follow.

    Returns:
        How many there were.
    """
    shards, _ = Footers(scores).look()
    filesystem, _ = storage.open_uri(scores)
    for shard in shards:
        if shard.errors:
            rows = pq.read_table(shard.path, filesystem=filesystem, partitioning=None)
            rewrite(scores, shard.path, rows.filter(pc.is_null(rows.column("error"))))
    return sum(shard.errors for shard in shards)


def drop_repeated(scores: str, paths: Sequence[str]) -> int:
    """Deletes each row whose image another shard has; `reconcile` must follow.

    A worker that outlives its killed job may commit a shard after the next job has begun.

    Args:
        scores: URI of the shards.
        paths: All of them; the first that has an image keeps it, or the first that has it without an error.

    Returns:
        How many there were.
    """
    filesystem, _ = storage.open_uri(scores)
    parts = [
        pq.read_table(path, columns=["image_id", "error"], filesystem=filesystem, partitioning=None) for path in paths
    ]
    rows = pa.concat_tables(parts)
    if pc.count_distinct(rows["image_id"]).as_py() == len(rows):
        return 0
    order = np.arange(len(rows)) + len(rows) * pc.is_valid(rows["error"]).to_numpy()
    best = (
        pa.table({"id": rows["image_id"], "order": order})
        .group_by("id", use_threads=False)
        .aggregate([("order", "min")])
    )
    first = np.zeros(len(rows), bool)
    first[best["order_min"].to_numpy() % len(rows)] = True
    for path, keep in zip(paths, np.split(first, np.cumsum([len(part) for part in parts])[:-1]), strict=True):
        if not keep.all():
            rewrite(scores, path, pq.read_table(path, filesystem=filesystem, partitioning=None).filter(pa.array(keep)))
    return int((~first).sum())


def rewrite(scores: str, path: str, rows: pa.Table) -> None:
    """Replaces a shard atomically; without rows it is deleted."""
    if rows.num_rows:
        storage.write_table(storage.join(scores, path.rpartition("/")[2]), rows, ROWS_PER_GROUP)
    else:
        _delete(storage.open_uri(scores)[0], path)


def _withdraw(commits: str, kept: set[str]) -> None:
    """Deletes all checkpoints but those of these names, and what a worker makes of a pending one at this moment."""
    filesystem, folder = storage.open_uri(commits)
    names = [file.base_name for file in storage.list_files(commits, recursive=False) if file.base_name not in kept]
    committed = [name.replace(_PENDING + _SUFFIX, _SUFFIX) for name in names]
    for name in [*names, *(name for name in committed if name not in kept)]:
        _delete(filesystem, f"{folder}/{name}")


def _is_part(file: fs.FileInfo) -> bool:
    """Says whether a file is left over from an atomic write that was killed."""
    return file.base_name.startswith(".") and f"{_SUFFIX}." in file.base_name


def _delete(filesystem: fs.FileSystem, path: str) -> None:
    """Deletes a file that may be gone already."""
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)


def _checkpoints(commits: str) -> dict[str, int]:
    """Rows of the committed checkpoints by their names."""
    filesystem, _ = storage.open_uri(commits)
    files = [file.path for file in storage.list_files(commits, recursive=False) if file.path.endswith(_SUFFIX)]
    with ThreadPoolExecutor(_THREADS) as threads:
        read = threads.map(partial(_metadata, filesystem), files)
        return {_stem(path): found.num_rows for path, found in zip(files, read, strict=True) if found is not None}


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(_SUFFIX)


def _metadata(filesystem: fs.FileSystem, path: str) -> pq.FileMetaData | None:
    try:
        return pq.read_metadata(path, filesystem=filesystem)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        if storage.is_garbled(error):
            return None
        raise


def _footer(filesystem: fs.FileSystem, path: str) -> Shard | None:
    metadata = _metadata(filesystem, path)
    if metadata is None:
        return None
    columns = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    if "error" not in columns:
        return Shard(path, metadata.num_rows, 0, foreign=True)
    error = columns.index("error")
    groups = [metadata.row_group(group).column(error) for group in range(metadata.num_row_groups)]
    return Shard(path, metadata.num_rows, metadata.num_rows - sum(group.statistics.null_count for group in groups))
