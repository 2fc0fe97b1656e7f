"""The manifest: the list of a run's images, which `index` writes and every later stage reads."""

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset as ds

from ddps_ray import schemas, storage
from ddps_ray.storage import Run

FOLDER = "manifest"
"""Its folder in the run directory."""

_ROWS_PER_GROUP = 10_000


def write(run: Run, split: str, rows: pa.Table, rows_per_file: int = 100_000) -> None:
    """Writes the rows of a split, in their order, as `manifest/<split>-<number>.parquet`.

    Args:
        run: Run directory.
        split: Name of the split.
        rows: Rows of `schemas.MANIFEST`.
        rows_per_file: At most so many go into a file.
    """
    schemas.check(rows, schemas.MANIFEST)
    for number, start in enumerate(range(0, rows.num_rows, rows_per_file)):
        uri = run.path(FOLDER, f"{split}-{number:05d}.parquet")
        storage.write_table(uri, rows.slice(start, rows_per_file), _ROWS_PER_GROUP)


def dataset(run: Run) -> ds.Dataset:
    """Opens the manifest for reading, by column and filter.

    Raises:
        UserError: The stage `index` has not finished.
    """
    run.require("index", "index")
    filesystem, path = storage.open_uri(run.path(FOLDER))
    return ds.dataset(path, schema=schemas.MANIFEST, format="parquet", filesystem=filesystem)


def classes(run: Run) -> pa.Table:
    """Returns class_id, class_text and label of each class, in the order of the labels; errors as in `dataset`."""
    columns = ["class_id", "class_text", "label"]
    rows = dataset(run).to_table(columns=columns)
    return rows.group_by(columns).aggregate([]).sort_by("label")


def count(run: Run, split: str) -> int:
    """Returns the number of images of a split; errors as in `dataset`."""
    return int(dataset(run).count_rows(filter=pc.field("split") == split))
