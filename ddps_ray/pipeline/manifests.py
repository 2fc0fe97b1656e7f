"""The manifest as Ray Data reads it: rows, and not yet a byte of an image."""

import ray
from ray.data import Dataset

from ddps_ray import manifest, storage
from ddps_ray.storage import Run


def read(run: Run, split: str) -> Dataset:
    """Returns the rows of a split, in the order of the manifest's files.

    Raises:
        UserError: The stage `index` has not finished.
    """
    filesystem, _ = storage.open_uri(run.path(manifest.FOLDER))
    # A folder above may be called key=value, of which Ray would make a column.
    return ray.data.read_parquet(manifest.files(run, split), filesystem=filesystem, partitioning=None)
