"""Images that are rows of Parquet files: the row group is read once for all of its rows, and of it the images only."""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddps_ray import storage
from ddps_ray.errors import BadImage, UserError, first_line

T = TypeVar("T")
_FILES = 64
_GROUPS = 4  # a window of images in threads straddles two; a group of a hundred photographs is some 11 MB
_GROUPS_BYTES = 512 * 2**20
_LARGEST_GROUP = 2**30
_USUAL = ("image", "img")


class Kept(Generic[T]):
    """The last few values, each made once, however many threads ask for it at the same time."""

    def __init__(self, most: int, most_bytes: float = math.inf) -> None:
        """Keeps at most so many values, of so many bytes together; but always the last one."""
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._futures: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        # A child process inherits the lock as it is, and waits for threads that it does not have.
        os.register_at_fork(after_in_child=self._forget)

    def get(self, key: Hashable, make: Callable[[], T], size: int = 0) -> T:
        """Returns the value of a key, made by `make` if it is not kept; what that raises is raised, and not kept.

        Args:
            key: What the value is of.
            make: Makes it.
            size: Its bytes.
        """
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
                self._sizes[key] = size
                self._let_go()
            self._futures.move_to_end(key)
        if mine:
            self._fill(key, future, make)
        return future.result()

    def _let_go(self) -> None:
        """Lets go of those that were asked for longest ago, where there are too many or they are too large."""
        while len(self._futures) > 1 and (
            len(self._futures) > self._most or sum(map(self._sizes.__getitem__, self._futures)) > self._most_bytes
        ):
            self._sizes.pop(self._futures.popitem(last=False)[0])

    def _fill(self, key: Hashable, future: "Future[T]", make: Callable[[], T]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:  # noqa: BLE001 - raised by result() in every thread that waits
            with self._lock:
                self._futures.pop(key, None)
                self._sizes.pop(key, None)
            future.set_exception(error)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._futures, self._sizes = OrderedDict(), {}


@dataclass(frozen=True)
class _File:
    metadata: Any
    column: str
    ends: np.ndarray  # number of rows up to the end of each row group


_files: Kept[_File] = Kept(_FILES)
_groups: Kept[pa.ChunkedArray] = Kept(_GROUPS, _GROUPS_BYTES)


def read_row(uri: str, row: int, column: str | None = None) -> bytes:
    """Reads the encoded image in a row of a Parquet file.

    Args:
        uri: The file.
        row: Number of the row, counted from 0.
        column: Name of the column; by default the one that can only be it, see `image_columns`.

    Raises:
        BadImage: The row has none, or is not there, or the file is not Parquet with a column of images, or damaged.
        OSError: The file cannot be read.
    """
    file = _files.get((uri, column), lambda: _open(uri, column))
    group = int(np.searchsorted(file.ends, row, side="right"))
    if group == len(file.ends):
        raise BadImage(f"cannot be read: row {row} is past the end, the file has {file.metadata.num_rows} rows")
    size = _group_bytes(file.metadata, group, file.column)
    images = _groups.get((uri, group, file.column), lambda: _read_group(uri, file, group), size)
    first = int(file.ends[group]) - file.metadata.row_group(group).num_rows
    value = images[row - first].as_py()
    if value is None:
        raise BadImage("no bytes are stored for it")
    return bytes(value)


def group(uri: str, row: int, column: str | None = None) -> int:
    """Number of the row group that a row is in; arguments and errors as in `read_row`, but for one past the end."""
    file = _files.get((uri, column), lambda: _open(uri, column))
    return int(np.searchsorted(file.ends, row, side="right"))


def image_columns(schema: pa.Schema, column: str | None = None) -> list[str]:
    """Paths of the columns that may have the encoded images: the bytes of structs of bytes and path, or a binary one.

    A column `image` is the only one, and so is `img`; without them, which of several it is cannot be known.

    Args:
        schema: The file's.
        column: Name of the only one that counts.
    """
    if column is not None:
        named = [schema.field(number) for number in schema.get_all_field_indices(column)]
        return [path for field in named if (path := _encoded(field, binary=True)) is not None]
    found = {field.name: path for field in schema if (path := _encoded(field)) is not None}
    for name in _USUAL:
        if name in found:
            return [found[name]]
    return list(found.values())


def check_groups(uri: str, metadata: pq.FileMetaData, column: str) -> None:
    """Sees to it that each row group of a file can be read whole.

    Raises:
        UserError: One is too large.
    """
    for group in range(metadata.num_row_groups):
        if (size := _group_bytes(metadata, group, column)) > _LARGEST_GROUP:
            raise UserError(
                f"data: {uri}: the images of row group {group} have {size / 2**30:.1f} GiB, and a group is read whole: "
                "write the file with smaller row groups, e.g. of 100 rows"
            )


def _group_bytes(metadata: pq.FileMetaData, group: int, column: str) -> int:
    row_group = metadata.row_group(group)
    columns = (row_group.column(number) for number in range(row_group.num_columns))
    return sum(each.total_uncompressed_size for each in columns if each.path_in_schema == column)


def _encoded(field: pa.Field, binary: bool = False) -> str | None:
    if not pa.types.is_struct(field.type):
        return str(field.name) if (binary or field.name in _USUAL) and _is_binary(field.type) else None
    place = field.type.get_field_index("bytes")
    return f"{field.name}.bytes" if place >= 0 and _is_binary(field.type.field(place).type) else None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _open(uri: str, column: str | None) -> _File:
    filesystem, path = storage.open_uri(uri)
    with filesystem.open_input_file(path) as source:
        try:
            parquet = pq.ParquetFile(source)
        except (pa.ArrowInvalid, OSError) as error:
            if not storage.is_garbled(error):
                raise
            raise BadImage(f"cannot be read: {first_line(error)}") from error
        columns, names = image_columns(parquet.schema_arrow, column), ", ".join(parquet.schema_arrow.names)
        if len(columns) != 1:
            raise BadImage(f"cannot be read: {len(columns) or 'no'} columns of images among {names}")
        metadata = parquet.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return _File(metadata, columns[0], np.cumsum(sizes, dtype=np.int64))


def _read_group(uri: str, file: _File, group: int) -> pa.ChunkedArray:
    filesystem, path = storage.open_uri(uri)
    with filesystem.open_input_file(path) as source:
        try:
            parquet = pq.ParquetFile(source, metadata=file.metadata)
            rows = parquet.read_row_group(group, columns=[file.column], use_threads=False).column(0)
        except (OSError, pa.ArrowException) as error:  # Arrow calls damaged pages an OSError, too
            _read_raw(source, file.metadata.row_group(group))
            raise BadImage(f"cannot be read: row group {group}: {first_line(error)}") from error
    if pa.types.is_struct(rows.type):  # flatten, unlike field, makes the bytes of a null struct null
        rows = pa.chunked_array([chunk.flatten()[0] for chunk in rows.chunks])
    return rows


def _read_raw(source: pa.NativeFile, group: Any) -> None:
    """Reads a row group's bytes, undecoded: raises if the store, and not what it holds, is at fault."""
    for number in range(group.num_columns):
        column = group.column(number)
        source.seek(column.dictionary_page_offset or column.data_page_offset)
        source.read(column.total_compressed_size)
