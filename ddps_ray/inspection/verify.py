"""`ddps verify RUN`: whether the scores and distilled sets of a run are whole and sound; it repairs nothing."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ddps_ray import manifest, schemas, shards, storage
from ddps_ray.conclusion import QUARANTINE
from ddps_ray.console import say
from ddps_ray.errors import UserError, first_line
from ddps_ray.inspection import distilled
from ddps_ray.storage import Run

SOUND, DAMAGED, INCOMPLETE = 0, 1, 3
"""Exit codes: all is there and sound; something is wrong; nothing is wrong, but images have no row yet."""

_COLUMNS = ("image_id", "class_id", "label", "typicality", "error")


def run(run_dir: str) -> int:
    """Checks the score shards and the distilled sets, and says what is wrong, a line each.

    Checked are: every footer and its schema, that no image is there twice, that class and typicality are there, that
    the images are those of the manifest, and that the quarantine holds just those with an error; of each finished set
    its metadata and files.

    Returns:
        `SOUND`, `DAMAGED` or `INCOMPLETE`.

    Raises:
        UserError: The run has no index or no scores.
    """
    this = Run(run_dir)
    this.require("index", "index")
    stage = this.record()["stages"].get("score")
    if stage is None:
        raise UserError(f"{this.uri} has no scores: run `ddps score` first")
    whole, broken = shards.Footers(this.path(shards.FOLDER)).look()
    rows, wrong = _read(this, whole)
    if "finished" in stage:
        wrong += [f"{path} is not a whole Parquet file" for path in broken]
    elif broken:
        say(f"verify: {len(broken)} files are being written, or were cut off: `ddps score` makes them again")
    listed = manifest.dataset(this).to_table(
        ["image_id", "class_id", "label"], filter=ds.field("split") == stage["settings"]["split"]
    )
    wrong += _wrong(rows, listed)
    if "finished" in stage:
        wrong += _quarantine(this, rows)
    wrong += distilled.check(this)
    for line in wrong:
        say(f"verify: {line}")
    missing = listed.filter(pc.invert(pc.is_in(listed["image_id"], rows["image_id"])))
    if missing.num_rows:
        say(
            f"verify: {missing.num_rows} of {listed.num_rows} images have no row, {missing['image_id'][0]} is the first"
        )
    say(f"verify: {len(whole)} shards, {rows.num_rows} rows, {len(wrong)} things wrong")
    return DAMAGED if wrong else INCOMPLETE if missing.num_rows else SOUND


def _read(this: Run, whole: list[shards.Shard]) -> tuple[pa.Table, list[str]]:
    """The columns of all shards that are right, and what is wrong with the others."""
    filesystem, _ = storage.open_uri(this.uri)
    parts, odd = [], []
    for shard in whole:
        try:
            if _fits(pq.read_schema(shard.path, filesystem=filesystem)):
                parts.append(pq.read_table(shard.path, columns=list(_COLUMNS), filesystem=filesystem))
            else:
                odd.append(f"{shard.path} has not the columns of a score shard")
        except (OSError, pa.ArrowInvalid) as error:
            odd.append(f"{shard.path} cannot be read: {first_line(error)}")
    empty = pa.schema([schemas.scores(1).field(name) for name in _COLUMNS]).empty_table()
    return pa.concat_tables([empty, *parts]), odd


def _fits(schema: pa.Schema) -> bool:
    size = shards.feature_size(schema)
    return size is not None and schemas.fits(schema, schemas.scores(size))


def _wrong(rows: pa.Table, listed: pa.Table) -> Iterator[str]:
    counts = rows["image_id"].value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        yield f"{len(twice)} images are there more than once, {twice.field('values')[0]} is one"
    places = pc.index_in(rows["image_id"], listed["image_id"])
    if places.null_count:
        unknown = rows.filter(pc.is_null(places))
        yield f"{unknown.num_rows} images are not in the manifest, {unknown['image_id'][0]} is one"
    for column in ("class_id", "label"):
        other = rows.filter(pc.not_equal(rows[column], listed[column].take(places)))
        if other.num_rows:
            yield f"{other.num_rows} images have another {column} than in the manifest, {other['image_id'][0]} is one"
    values = rows["typicality"].to_numpy()
    odd = rows.filter(pa.array(~np.isfinite(values)))
    odd = odd.filter(pc.is_null(odd["error"]))
    if odd.num_rows:
        yield f"{odd.num_rows} images have neither a finite typicality nor an error, {odd['image_id'][0]} is one"


def _quarantine(this: Run, rows: pa.Table) -> Iterator[str]:
    filesystem, path = storage.open_uri(this.path("quarantine", QUARANTINE))
    try:
        there = pq.read_table(path, columns=["image_id"], filesystem=filesystem, partitioning=None)[
            "image_id"
        ].to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        yield f"{path} cannot be read: {first_line(error)}"
        return
    failed = rows.filter(pc.is_valid(rows["error"]))["image_id"].to_pylist()
    if sorted(there) != sorted(failed):
        yield f"{len(failed)} images have an error, but {path} has {len(there)}, or others"
