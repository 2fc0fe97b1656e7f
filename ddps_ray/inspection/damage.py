"""Which file of a run cannot be read, and which command makes it again."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ddps_ray import storage
from ddps_ray.errors import first_line
from ddps_ray.storage import Run

_AGAIN = "delete it, and `ddps {}` makes it again"
_UNUSED = "delete it: only the report reads it, which then lists these images no more"
_REMEDIES = (
    ("manifest/", _AGAIN.format("index")),
    ("scores/", _AGAIN.format("score")),
    ("checkpoints/score-", _AGAIN.format("score")),
    ("checkpoints/pack-", _AGAIN.format("pack")),
    ("quarantine/score.", _AGAIN.format("score")),
    ("quarantine/", _UNUSED),
    ("distilled/", _AGAIN.format("distill")),
    ("labels/", _AGAIN.format("relabel")),
    ("evaluation/", _AGAIN.format("evaluate")),
)
"""What to do about a damaged Parquet file of a run, by what its path in the run directory begins with: the first."""

_FOLDERS = tuple(dict.fromkeys(place.partition("/")[0] for place, _ in _REMEDIES))
_BROKEN = re.compile(
    r"thrift|decompression failed|Corrupt \w+ compressed|corrupt file|Codec failed|Unexpected end of stream"
)
"""What Arrow says, as an OSError like any of a store, where a Parquet file's bytes are not what was written."""

_THREADS = 16


@dataclass(frozen=True)
class _File:
    """A Parquet file of a run: its path in the file system, the remedy, and whether it is read to its end."""

    path: str
    remedy: str
    whole: bool


def find(run: Run, said: str = "") -> str | None:
    """Looks for a Parquet file of a run that cannot be read: at the footers of all, and at all of those in question.

    Args:
        run: Run directory.
        said: What an error says; files that are named in it are read first, and to their end.

    Returns:
        A line about the damaged file, with what to do about it; None if there is none.

    Raises:
        OSError: A file cannot be looked at: its store fails, or refuses it.
    """
    filesystem, _ = storage.open_uri(run.uri)
    files = sorted(_files(run, said), key=lambda file: not file.whole)
    with ThreadPoolExecutor(_THREADS) as threads:
        looks = [threads.submit(_reason, filesystem, file) for file in files]
        try:
            for file, look in zip(files, looks, strict=True):
                if reason := look.result():
                    return f"{file.path} is damaged ({reason}): {file.remedy}"
        finally:
            threads.shutdown(cancel_futures=True)
    return None


def is_damage(error: Exception) -> bool:
    """Says whether what fails to read a Parquet file is the file, and not its store or a lack of rights."""
    if isinstance(error, pa.ArrowInvalid) or storage.is_garbled(error):
        return True
    return isinstance(error, OSError) and error.errno is None and _BROKEN.search(str(error)) is not None


def _files(run: Run, said: str) -> Iterator[_File]:
    for folder in _FOLDERS:
        top = storage.open_uri(run.path(folder))[1].removesuffix(folder)
        for file in storage.list_files(run.path(folder)):
            remedy = next((remedy for place, remedy in _REMEDIES if file.path.startswith(top + place)), None)
            if remedy is not None and file.extension == "parquet":
                yield _File(file.path, remedy, file.path in said)


def _reason(filesystem: fs.FileSystem, file: _File) -> str | None:
    """Why a file cannot be read; None too if another job has taken it away since it was listed."""
    try:
        with suppress(FileNotFoundError), pq.ParquetFile(file.path, filesystem=filesystem) as opened:
            for _ in opened.iter_batches() if file.whole else ():
                pass
    except (OSError, pa.ArrowInvalid) as error:
        if not is_damage(error):
            raise
        reason = first_line(error).removeprefix(f"Could not open Parquet input source '{file.path}': ")
        return reason.split(". ")[0].rstrip(".")
    return None
