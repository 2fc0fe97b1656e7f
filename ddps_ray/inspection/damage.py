"""Which file of a run cannot be read, and which command makes it again."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ddps_ray import storage
from ddps_ray.errors import first_line
from ddps_ray.storage import Run

MADE_BY = {
    "manifest": "index",
    "scores": "score",
    "quarantine": "score",
    "checkpoints": "score",
    "distilled": "distill",
    "evaluation": "evaluate",
}
"""The command that makes a Parquet file of a run again where it is gone, by the folder that it is in."""


def find(run: Run, said: str = "") -> str | None:
    """Reads a run's Parquet files to their end until one cannot be read.

    Args:
        run: Run directory.
        said: Files that are named in it are read first.

    Returns:
        A line about the damaged file, with the way to have it again; None if all can be read.
    """
    for folder, path, reason in _unreadable(run, said):
        return f"{path} is damaged ({reason}): delete it, and `ddps {MADE_BY[folder]}` makes it again"
    return None


def _unreadable(run: Run, said: str) -> Iterator[tuple[str, str, str]]:
    found = []
    for folder in MADE_BY:
        filesystem, _ = storage.open_uri(run.path(folder))
        files = [file.path for file in storage.list_files(run.path(folder)) if file.path.endswith(".parquet")]
        found += [(path not in said, folder, filesystem, path) for path in files]
    for _, folder, filesystem, path in sorted(found, key=lambda each: each[0]):
        if reason := _reason(filesystem, path):
            yield folder, path, reason


def _reason(filesystem: fs.FileSystem, path: str) -> str | None:
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            for _ in file.iter_batches():
                pass
    except (OSError, pa.ArrowException) as error:
        return (
            first_line(error).removeprefix(f"Could not open Parquet input source '{path}': ").split(". ")[0].rstrip(".")
        )
    return None
