"""The score shards of a run: counted by their footers, and kept in step with the checkpoints that Ray goes by."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from ddps_ray import storage
from ddps_ray.errors import UserError

FOLDER = "scores"
"""Their folder in the run directory."""

ROWS_PER_GROUP = 128
"""Rows in a row group: a class's rows are found by the groups' statistics, without reading the rest."""

_SUFFIX = ".parquet"
_THREADS = 16


@dataclass(frozen=True)
class Shard:
    """What a shard's footer says.

    Attributes:
        path: Where it is in its file system.
        rows: Its rows, those with an error included.
        errors: Those with an error.
    """

    path: str
    rows: int
    errors: int

    @property
    def commit(self) -> str:
        """Name of the checkpoint that Ray writes with it."""
        return _stem(self.path).rpartition("-")[0]


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


def is_shard(file: fs.FileInfo) -> bool:
    """Says whether a file of the folder is meant to be a shard; others are left over from an atomic write."""
    return bool(file.path.endswith(_SUFFIX)) and not file.base_name.startswith(".")


def reconcile(scores: str, commits: str) -> None:
    """Makes the checkpoints say what the shards hold, whatever was killed, whenever.

    Ray writes a pending checkpoint, the shard, and then moves the checkpoint to its final name; on an object store that
    move is a copy and a delete. A shard that can be read whole counts, whether or not Ray came to commit it, since its
    scores are what any other attempt would give; one that cannot is deleted, and its rows are scored again.

    Args:
        scores: URI of the shards.
        commits: URI of the checkpoints.
    """
    shards, broken = Footers(scores).look()
    filesystem, _ = storage.open_uri(scores)
    for path in broken:
        filesystem.delete_file(path)
    committed = _checkpoints(commits)
    for shard in shards:
        if committed.get(shard.commit) != shard.rows:
            ids = pq.read_table(shard.path, columns=["image_id"], filesystem=filesystem)["image_id"]
            storage.write_table(storage.join(commits, shard.commit + _SUFFIX), pa.table({"image_id": ids}))
    kept = {shard.commit + _SUFFIX for shard in shards}
    for file in storage.list_files(commits, recursive=False):
        if file.base_name not in kept:
            filesystem.delete_file(file.path)


def drop_failed(scores: str) -> int:
    """Deletes the rows with an error, shard by shard; `reconcile` must follow.

    Returns:
        How many there were.
    """
    shards, _ = Footers(scores).look()
    filesystem, _ = storage.open_uri(scores)
    for shard in shards:
        if shard.errors:
            rows = pq.read_table(shard.path, filesystem=filesystem)
            rewrite(scores, shard.path, rows.filter(pc.is_null(rows.column("error"))))
    return sum(shard.errors for shard in shards)


def drop_repeated(scores: str, paths: Iterable[str]) -> int:
    """Deletes each row whose image an earlier shard has; `reconcile` must follow.

    A worker that outlives its killed job may commit a shard after the next job has begun.

    Args:
        scores: URI of the shards.
        paths: All of them; the first that has an image keeps it.

    Returns:
        How many there were.
    """
    filesystem, _ = storage.open_uri(scores)
    columns = [pq.read_table(path, columns=["image_id"], filesystem=filesystem)["image_id"] for path in paths]
    ids = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    if pc.count_distinct(ids).as_py() == len(ids):
        return 0
    first = np.zeros(len(ids), bool)
    places = pa.table({"id": ids, "place": np.arange(len(ids))}).group_by("id").aggregate([("place", "min")])
    first[places["place_min"].to_numpy()] = True
    for path, keep in zip(paths, np.split(first, np.cumsum([len(column) for column in columns])[:-1]), strict=True):
        if not keep.all():
            rewrite(scores, path, pq.read_table(path, filesystem=filesystem).filter(pa.array(keep)))
    return int((~first).sum())


def rewrite(scores: str, path: str, rows: pa.Table) -> None:
    """Replaces a shard atomically; without rows it is deleted."""
    if rows.num_rows:
        storage.write_table(storage.join(scores, path.rpartition("/")[2]), rows, ROWS_PER_GROUP)
    else:
        storage.open_uri(scores)[0].delete_file(path)


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
    except (pa.ArrowInvalid, FileNotFoundError):
        return None


def _footer(filesystem: fs.FileSystem, path: str) -> Shard | None:
    metadata = _metadata(filesystem, path)
    if metadata is None:
        return None
    columns = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    if "error" not in columns:
        raise UserError(f"{path} is not a score shard: it has no column `error`")
    error = columns.index("error")
    groups = [metadata.row_group(group).column(error) for group in range(metadata.num_row_groups)]
    return Shard(path, metadata.num_rows, metadata.num_rows - sum(group.statistics.null_count for group in groups))
