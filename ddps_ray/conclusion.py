"""The end of scoring: no image twice, none missing, and the failed ones in quarantine."""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ddps_ray import manifest, schemas, shards, storage
from ddps_ray.storage import Run

QUARANTINE = "score.parquet"
"""Name of the quarantine file of stage `score`."""


def conclude(run_uri: str, split: str) -> dict[str, int | str]:
    """Counts the score rows and writes those with an error into quarantine.

    Args:
        run_uri: Run directory.
        split: The split that was scored.

    Returns:
        Counts of images, of those scored and quarantined, of rows that were there twice, and a digest of the ids that
        have a score.

    Raises:
        RuntimeError: A row is of an image that the manifest does not have.
    """
    run = Run(run_uri)
    folder = run.path(shards.FOLDER)
    repeated = shards.drop_repeated(folder, _paths(folder))
    paths = _paths(folder)
    rows = _rows(folder, paths, ["image_id", "error"])
    listed = manifest.dataset(run).to_table(columns=["image_id"], filter=ds.field("split") == split)["image_id"]
    unknown = rows.filter(pc.invert(pc.is_in(rows["image_id"], listed)))
    if unknown.num_rows:
        raise RuntimeError(f"{unknown['image_id'][0]} has a score, but is not in the manifest")
    bad = _rows(folder, paths, ["image_id", "uri", "error"], ds.field("error").is_valid()).sort_by("image_id")
    _quarantine(run, bad)
    good = rows.filter(pc.is_null(rows["error"]))["image_id"]
    return {
        "images": rows.num_rows,
        "scored": len(good),
        "quarantined": bad.num_rows,
        "repeated": repeated,
        "digest": digest(good),
    }


def digest(ids: pa.ChunkedArray) -> str:
    """SHA-256 over ids in their order by name, whatever their order here."""
    total = hashlib.sha256()
    for chunk in pc.take(ids, pc.sort_indices(ids)).chunks:
        total.update("\n".join([*chunk.to_pylist(), ""]).encode())
    return total.hexdigest()


def _paths(folder: str) -> list[str]:
    """The whole shards: a worker that outlived its job may be writing another."""
    found, _ = shards.Footers(folder).look()
    return [shard.path for shard in found]


def _rows(folder: str, paths: list[str], columns: list[str], wanted: ds.Expression | None = None) -> pa.Table:
    return shards.dataset(folder, paths).to_table(columns, filter=wanted)


def _quarantine(run: Run, bad: pa.Table) -> None:
    columns = {
        "image_id": bad["image_id"].to_pylist(),
        "uri": bad["uri"].to_pylist(),
        "stage": ["score"] * bad.num_rows,
        "reason": bad["error"].to_pylist(),
    }
    storage.write_table(run.path("quarantine", QUARANTINE), schemas.table(columns, schemas.QUARANTINE))
