"""The layout that `ddps pack` writes: a few Parquet files with the encoded images and their rows of the manifest."""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddps_ray import schemas, storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import advice, classes, folders, listing, locators
from ddps_ray.sources.listing import PLAIN, Classes, Listing, Options

RECORD = "packed.json"
"""Written last: how many images each split has."""

_COLUMNS = ["image_id", "class_id", "class_text", "label"]
_WNID = "wnid"


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether a folder is a packed data set, finished or not."""
    if folders.has(root, RECORD):
        return True
    for name in _files(root)[:1]:
        filesystem, path = storage.open_uri(storage.join(root, name))
        try:
            return schemas.fits(pq.read_schema(path, filesystem=filesystem), schemas.PACKED)
        except (OSError, pa.ArrowInvalid):
            return False
    return False


def list_images(
    root: str,
    splits: Sequence[str],
    names: Mapping[str, str] | None = None,
    ground_truth: str | None = None,
    options: Options = PLAIN,
) -> Listing:
    """Lists a packed data set: ids, classes, labels and, where the user gives none, names are those it was packed with.

    Args:
        root: Folder or URI.
        splits: Names of the splits, the training split first.
        names: The user's names of the classes.
        ground_truth: Not used.
        options: Not used.

    Raises:
        UserError: It was not packed to the end, or has no such split, or the user's names lack a class.
    """
    folders.check_root(root)
    counts = _counts(root)
    for split in splits:
        if split not in counts:
            raise advice.no_split(root, split, splits, counts)
    files = _files(root)
    read = {split: _read(root, split, [name for name in files if name.startswith(f"{split}-")]) for split in splits}
    for split, rows in read.items():
        if rows.num_rows != counts[split]:
            raise UserError(f"data: {root} has {rows.num_rows} images of {split!r}, {RECORD} says {counts[split]}")
    known = _classes(pa.concat_tables(read.values()), names)
    tables = {
        split: listing.rows(split, rows["image_id"], rows["uri"], rows["class_id"], known)
        for split, rows in read.items()
    }
    return Listing(tables, known.texts, skipped=0)


def _files(root: str) -> list[str]:
    return [name for name in folders.files(root) if name.endswith(".parquet")]


def _counts(root: str) -> dict[str, int]:
    place = storage.join(root, RECORD)
    if not storage.exists(place):
        raise UserError(f"data: {root} was not packed to the end: run the same `ddps pack` again")
    try:
        splits = json.loads(storage.read_bytes(place))["splits"]
        return {str(split): int(count) for split, count in splits.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"data: {place} is not readable as the record of a packed data set") from error


def _read(root: str, split: str, paths: list[str]) -> pa.Table:
    tables = []
    for path in paths:
        uri = storage.join(root, path)
        filesystem, place = storage.open_uri(uri)
        try:
            rows = pq.ParquetFile(place, filesystem=filesystem).read(columns=[*_COLUMNS, "split", _WNID])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"data: {uri} cannot be read: {first_line(error)}") from error
        rows = rows.append_column("uri", locators.rows(uri, rows.num_rows))
        if _WNID not in rows.column_names:  # packed before there was one
            rows = rows.append_column(_WNID, pa.nulls(rows.num_rows, pa.string()))
        tables.append(rows.filter(pc.equal(rows["split"], split)).select([*_COLUMNS, "uri", _WNID]))
    if not tables:
        raise UserError(f"data: {root} has no files of the split {split!r}")
    return pa.concat_tables(tables)


def _classes(rows: pa.Table, names: Mapping[str, str] | None) -> Classes:
    found = (
        rows.group_by(["label", "class_id", "class_text", _WNID], use_threads=False)
        .aggregate([])
        .sort_by("label")
        .to_pylist()
    )
    texts = {row["class_id"]: row["class_text"] for row in found}
    wnids = {row["class_id"]: row[_WNID] for row in found if row[_WNID] is not None}
    if names is not None:
        named = classes.named(texts, names)
        texts, wnids = named.texts, wnids | dict(named.wnids)
    return Classes(texts, {row["class_id"]: row["label"] for row in found}, wnids)
