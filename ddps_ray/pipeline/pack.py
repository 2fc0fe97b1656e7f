"""Command `pack`: the images of an index, wherever they lie, copied into a few Parquet files that are read in order."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import ray
from ray.data import DataContext
from ray.data.datasource import FilenameProvider

from ddps_ray import config, manifest, schemas, shards, storage
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.errors import BadImage, UserError
from ddps_ray.pipeline import cluster, manifests, tally
from ddps_ray.pipeline.commits import checkpointed
from ddps_ray.pipeline.progress import counted, too_many
from ddps_ray.sources import packed, reading
from ddps_ray.storage import Run

STAGE = "pack"
ROWS_PER_GROUP = 64
"""What one read brings along: some 7 MB of ImageNet."""

_FILE_BYTES = 128 * 2**20  # a task holds a file twice, and a kill costs one a task
_SAMPLE = 64
_FORMAT = {
    "compression": {"image": "none"},  # is compressed as it is
    "use_dictionary": ["class_id", "class_text", "split", "wnid"],
    "write_statistics": ["image_id", "class_id", "label", "error"],
}


def run(recipe: Recipe, out: str, seconds: float = 10.0) -> None:
    """Copies every image of all splits of the index into `<out>/<split>-….parquet`, as its file is.

    A folder so made is a data set of the layout `packed`, with the same ids, classes and labels. A run that was killed
    goes on from the files that are whole.

    Args:
        recipe: The recipe of the run.
        out: Folder or URI, empty or begun by this command.
        seconds: Interval at which it says how far it is.

    Raises:
        UserError: The data set is not indexed, `out` has other files, or those of another index, or too many images
            cannot be read; run again, it tries those once more.
    """
    target, out = Run(recipe.run_dir), config.lasting(out)
    indexed = target.require("index", "index")
    stage = f"{STAGE}/{out}"
    if stage not in target.record()["stages"] and any(True for _ in storage.list_files(out)):
        raise UserError(f"--out: {out} is not empty: name another folder")
    if target.claim(stage, {"fingerprint": indexed["fingerprint"]}):
        say(f"pack: already finished: {_described(target.require(stage, STAGE))} in {out}")
        return
    say(f"pack: {indexed['images']} images → {out}")
    cluster.connect(recipe)
    commits = target.path("checkpoints", f"{STAGE}-{hashlib.sha256(out.encode()).hexdigest()[:16]}")
    if safe := ray.get(_reconcile.remote(out, commits)):
        say(f"pack: {safe} of {indexed['images']} were done before; going on with the others")
    rows = ray.get(_rows_per_file.remote(target.uri))
    with checkpointed(commits), _in_order(), counted(STAGE, out, indexed["images"], seconds) as done:
        for split in indexed["splits"]:
            _copy(target, split, out, rows, done)
    summary = ray.get(_conclude.remote(target.uri, out, indexed, recipe.score.max_error_fraction))
    target.finish(stage, summary)
    say(f"pack: {_described(summary)} in {out}; use it with data.root={out}")


def _described(summary: dict[str, int]) -> str:
    return f"{summary['packed']} images packed, {summary['quarantined']} in quarantine"


class _Names(FilenameProvider):  # type: ignore[misc]
    def __init__(self, split: str) -> None:
        super().__init__(file_format="parquet")
        self._split = split

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        return f"{self._split}-{write_uuid}_{task_index:06}.parquet"


@contextmanager
def _in_order() -> Iterator[None]:
    """Within it, Ray Data keeps rows in the manifest's order, in which a class lies together."""
    options = DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before


def _copy(target: Run, split: str, out: str, rows_per_file: int, done: str) -> None:
    blocks = manifests.read(target, split).repartition(target_num_rows_per_block=rows_per_file)
    filesystem, folder = storage.open_uri(out)
    loading = {"batch_size": ROWS_PER_GROUP, "batch_format": "pyarrow", "fn_kwargs": {"done": done}}
    blocks.map_batches(_load, **loading).write_parquet(
        folder,
        filesystem=filesystem,
        filename_provider=_Names(split),
        row_group_size=ROWS_PER_GROUP,
        schema=schemas.PACKED,
        **_FORMAT,
    )


def _load(rows: pa.Table, done: str) -> pa.Table:
    """Turns manifest rows into packed ones, and adds them to the tally `done`."""
    with cluster.answering():
        found = reading.attempt_encoded(rows["uri"].to_pylist())
    tally.of_this_process(done).add(len(found))
    images = [None if isinstance(each, BadImage) else each for each in found]
    errors = [str(each) if isinstance(each, BadImage) else None for each in found]
    kept = {"wnid": pa.nulls(rows.num_rows, pa.string())}  # in manifests of before
    kept |= {name: rows[name] for name in schemas.PACKED.names if name in rows.column_names}
    columns = kept | {"image": pa.array(images, pa.binary()), "error": pa.array(errors, pa.string())}
    return pa.table([columns[name] for name in schemas.PACKED.names], schema=schemas.PACKED)


@ray.remote(num_cpus=0)
def _reconcile(out: str, commits: str) -> int:
    """Puts right what a kill has left, and forgets what could not be read; returns how many images are safe."""
    shards.drop_failed(out)
    found, _ = shards.Footers(out).look()
    if found and shards.drop_repeated(out, [shard.path for shard in found]):
        found, _ = shards.Footers(out).look()
    shards.reconcile(out, commits)
    return sum(shard.rows for shard in found)


@ray.remote(num_cpus=0)
def _rows_per_file(run_dir: str) -> int:
    """Rows that fill a file, by the sizes of a few images."""
    uris = manifest.dataset(Run(run_dir)).to_table(columns=["uri"])["uri"]
    step = max(1, len(uris) // _SAMPLE)
    found = reading.attempt_encoded(uris[::step].to_pylist())
    sizes = [len(each) for each in found if not isinstance(each, BadImage)] or [1]
    rows = int(_FILE_BYTES * len(sizes) / max(1, sum(sizes)))
    return max(1, min(rows, 50_000) // ROWS_PER_GROUP) * ROWS_PER_GROUP


@ray.remote(num_cpus=0)
def _conclude(run_dir: str, out: str, indexed: dict[str, Any], fraction: float) -> dict[str, int]:
    """Counts what is there, writes the images that could not be read into quarantine, and the record last of all."""
    target = Run(run_dir)
    filesystem, _ = storage.open_uri(out)
    paths = [file.path for file in storage.list_files(out, recursive=False) if shards.is_shard(file)]
    found = pads.dataset(paths, schema=schemas.PACKED, filesystem=filesystem, format="parquet")
    counts = {split: found.count_rows(filter=pads.field("split") == split) for split in indexed["splits"]}
    if counts != indexed["splits"]:
        raise RuntimeError(f"{out} has {counts} images, the index has {indexed['splits']}")
    bad = found.to_table(["image_id", "error"], filter=~pads.field("error").is_null()).sort_by("image_id")
    _quarantine(target, bad)
    if error := too_many(bad.num_rows, sum(counts.values()), fraction, target.path("quarantine", f"{STAGE}.parquet")):
        raise error
    storage.write_json(storage.join(out, packed.RECORD), {"splits": counts, "fingerprint": indexed["fingerprint"]})
    return {"packed": sum(counts.values()) - bad.num_rows, "quarantined": bad.num_rows, "files": len(paths)}


def _quarantine(target: Run, bad: pa.Table) -> None:
    wanted = pads.field("image_id").isin(bad["image_id"].combine_chunks())
    listed = manifest.dataset(target).to_table(columns=["image_id", "uri"], filter=wanted).sort_by("image_id")
    columns = {
        "image_id": bad["image_id"].to_pylist(),
        "uri": listed["uri"].to_pylist(),
        "stage": [STAGE] * bad.num_rows,
        "reason": bad["error"].to_pylist(),
    }
    rows = schemas.table(columns, schemas.QUARANTINE)
    storage.write_table(target.path("quarantine", f"{STAGE}.parquet"), rows)
