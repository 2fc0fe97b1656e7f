"""Images that are rows of Parquet files: the row group is read once for all of its rows, and of it the images only."""

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
from ddps_ray.errors import BadImage

T = TypeVar("T")
_FILES = 64
_GROUPS = 4  # a window of images in threads straddles two; a group of a hundred photographs is some 11 MB


class Kept(Generic[T]):
    """The last few values, each made once, however many threads ask for it at the same time."""

    def __init__(self, most: int) -> None:
        """Keeps at most so many values."""
        self._most = most
        self._lock = threading.Lock()
        self._futures: OrderedDict[Hashable, Future[T]] = OrderedDict()
        # A child process inherits the lock as it is, and waits for threads that it does not have.
        os.register_at_fork(after_in_child=self._forget)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns the value of a key, made by `make` if it is not kept; what that raises is raised, and not kept."""
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
                while len(self._futures) > self._most:
                    self._futures.popitem(last=False)
            self._futures.move_to_end(key)
        if mine:
            self._fill(key, future, make)
        return future.result()

    def _fill(self, key: Hashable, future: "Future[T]", make: Callable[[], T]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:  # noqa: BLE001 - raised by result() in every thread that waits
            with self._lock:
                self._futures.pop(key, None)
            future.set_exception(error)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._futures = OrderedDict()


@dataclass(frozen=True)
class _File:
    metadata: Any
    column: str
    ends: np.ndarray  # number of rows up to the end of each row group


_files: Kept[_File] = Kept(_FILES)
_groups: Kept[pa.ChunkedArray] = Kept(_GROUPS)


def read_row(uri: str, row: int) -> bytes:
    """Reads the encoded image in a row of a Parquet file.

    Raises:
        BadImage: The row has none, or is not there, or the file is not Parquet with a column of images, or damaged.
        OSError: The file cannot be read.
    """
    file = _files.get(uri, lambda: _open(uri))
    group = int(np.searchsorted(file.ends, row, side="right"))
    if group == len(file.ends):
        raise BadImage(f"cannot be read: row {row} is past the end, the file has {file.metadata.num_rows} rows")
    images = _groups.get((uri, group), lambda: _read_group(uri, file, group))
    first = int(file.ends[group]) - file.metadata.row_group(group).num_rows
    value = images[row - first].as_py()
    if value is None:
        raise BadImage("no bytes are stored for it")
    return bytes(value)


def image_column(schema: pa.Schema) -> str | None:
    """Path of the column that has encoded images: a binary `image`, or the bytes of a struct of bytes and path."""
    for field in schema:
        if field.name == "image" and _is_binary(field.type):
            return "image"
        if pa.types.is_struct(field.type):
            place = field.type.get_field_index("bytes")
            if place >= 0 and _is_binary(field.type.field(place).type):
                return f"{field.name}.bytes"
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _open(uri: str) -> _File:
    filesystem, path = storage.open_uri(uri)
    with filesystem.open_input_file(path) as source:
        try:
            parquet = pq.ParquetFile(source)
        except pa.ArrowInvalid as error:
            raise BadImage(f"cannot be read: {str(error).splitlines()[0]}") from error
        column = image_column(parquet.schema_arrow)
        if column is None:
            raise BadImage(f"cannot be read: no column of images among {', '.join(parquet.schema_arrow.names)}")
        metadata = parquet.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return _File(metadata, column, np.cumsum(sizes, dtype=np.int64))


def _read_group(uri: str, file: _File, group: int) -> pa.ChunkedArray:
    filesystem, path = storage.open_uri(uri)
    with filesystem.open_input_file(path) as source:
        try:
            parquet = pq.ParquetFile(source, metadata=file.metadata)
            rows = parquet.read_row_group(group, columns=[file.column], use_threads=False).column(0)
        except (OSError, pa.ArrowException) as error:  # Arrow calls damaged pages an OSError, too
            _read_raw(source, file.metadata.row_group(group))
            raise BadImage(f"cannot be read: row group {group}: {str(error).splitlines()[0]}") from error
    if pa.types.is_struct(rows.type):  # flatten, unlike field, makes the bytes of a null struct null
        rows = pa.chunked_array([chunk.flatten()[0] for chunk in rows.chunks])
    return rows


def _read_raw(source: pa.NativeFile, group: Any) -> None:
    """Reads a row group's bytes, undecoded: raises if the store, and not what it holds, is at fault."""
    for number in range(group.num_columns):
        column = group.column(number)
        source.seek(column.dictionary_page_offset or column.data_page_offset)
        source.read(column.total_compressed_size)
