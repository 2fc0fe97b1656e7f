"""Reading a run's Parquet files for the report: only the columns asked for, in an order that no worker decides."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ddps_ray import schemas, shards, storage
from ddps_ray.storage import Run

FILE = "__filename"
"""Name of the column that tells which file a row came from; ask for it as for any other."""

_SCHEMAS = {"evaluation": schemas.EVALUATION, "failed": schemas.FAILURE, "quarantine": schemas.QUARANTINE}
"""By the last part of the folder's name."""


def files(run: Run, folder: str) -> list[str]:
    """Lists the Parquet files of a folder of the run, not of those in it, as paths inside the run's file system."""
    found = storage.list_files(run.path(*folder.split("/")), recursive=False)
    return [info.path for info in found if info.base_name.endswith(".parquet")]


def batches(run: Run, paths: list[str], columns: list[str], where: ds.Expression | None = None) -> Iterator[pa.Table]:
    """Yields the rows of some files piece by piece, so that a column as wide as the map never lies in memory whole.

    Args:
        run: The run that the files belong to.
        paths: From `files`.
        columns: The columns to read.
        where: Which rows to keep; all by default.
    """
    if paths:
        for batch in _opened(run, paths).to_batches(columns=columns, filter=where):
            yield pa.Table.from_batches([batch])


def _opened(run: Run, paths: list[str]) -> ds.Dataset:
    """Opens files of one folder of the run by the schema of what is in it."""
    folder = paths[0].split("/")[-2]
    if folder == shards.FOLDER:
        return shards.dataset(run.path(folder), paths)
    return schemas.dataset(paths, storage.open_uri(run.uri)[0], _SCHEMAS[folder])


def read(
    run: Run, folder: str, columns: list[str], order: list[str], where: ds.Expression | None = None
) -> pa.Table | None:
    """Reads columns of all Parquet files of a folder, sorted.

    Args:
        run: The run.
        folder: Folder inside it, e.g. `scores` or `evaluation/failed`.
        columns: The columns to read.
        order: Columns to sort by, so that the same rows give the same table however many files they came in.
        where: Which rows to keep; all by default.

    Returns:
        The rows, or None if the folder has no Parquet file.
    """
    parts = list(batches(run, files(run, folder), columns, where))
    return pa.concat_tables(parts).sort_by([(name, "ascending") for name in order]) if parts else None


@dataclass(frozen=True)
class Scores:
    """What the report needs of every scored image; entry i of each array is image i, sorted by image_id.

    Attributes:
        image_id: Their ids.
        class_id: Their classes.
        typicality: T of the most typical patch, float64.
        file: The shard that holds the image's row.
    """

    image_id: list[str]
    class_id: np.ndarray
    typicality: np.ndarray
    file: list[str]


def scores(run: Run) -> Scores:
    """Reads the scores; images that could not be scored are left out."""
    columns = ["image_id", "class_id", "typicality", FILE]
    rows = read(run, "scores", columns, ["image_id"], pc.field("error").is_null())
    if rows is None:
        return Scores([], np.array([], dtype=str), np.array([]), [])
    return Scores(
        rows["image_id"].to_pylist(),
        np.array(rows["class_id"].to_pylist(), dtype=str),
        rows["typicality"].to_numpy().astype(np.float64),
        rows[FILE].to_pylist(),
    )
