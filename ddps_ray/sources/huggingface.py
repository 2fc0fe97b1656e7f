"""Hugging Face's Parquet layout: `train-00000-of-00294.parquet` of an image's bytes and path, and a label."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import classes, containers, listing, locators, parquet
from ddps_ray.sources.listing import Classes, Listing

SUFFIX = ".parquet"


@dataclass(frozen=True)
class _File:
    uri: str
    names: list[str] | None  # its own, of the labels
    rows: pa.Table  # uri, base name and label


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether a folder has Parquet files with a column of images."""
    return any(parquet.image_columns(_schema(storage.join(root, paths[0]))) for paths in _found(root))


def list_images(
    root: str, splits: Sequence[str], names: Mapping[str, str] | None = None, ground_truth: str | None = None
) -> Listing:
    """Lists a data set from its labels and paths; no image is read.

    A class is what the files' own ClassLabel says, else the user's n-th; its label is the data set's own. Rows are in
    the order of the files.

    Args:
        root: Folder or URI.
        splits: What the names of the files begin with, or the folders that they are in, the training split first.
        names: The user's names of the classes; see `classes.numbered`.
        ground_truth: Not used.

    Raises:
        UserError: There are no files of a split, no or several columns of images, no column of labels, no names, names
            that differ from file to file, an image has no label, or a row group is too large to be read.
    """
    files = containers.of_splits(root, SUFFIX, splits)
    found = {split: [_read(storage.join(root, path), _stem(path)) for path in paths] for split, paths in files.items()}
    every = [file for split in splits for file in found[split]]
    used = {label for file in every for label in file.rows["label"].unique().to_pylist()}
    known = classes.numbered(root, used, _common_names(every), names)
    tables = {split: pa.concat_tables([_rows(split, file.rows, known) for file in found[split]]) for split in splits}
    return Listing(tables, known.texts, skipped=0)


def _found(root: str) -> list[list[str]]:
    return list(containers.found(root, SUFFIX).values())


def _stem(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(SUFFIX)


def _schema(uri: str) -> pa.Schema:
    filesystem, path = storage.open_uri(uri)
    try:
        return pq.read_schema(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"data: {uri} cannot be read: {first_line(error)}") from error


def _read(uri: str, stem: str) -> _File:
    filesystem, place = storage.open_uri(uri)
    try:
        with pq.ParquetFile(place, filesystem=filesystem) as file:
            schema = file.schema_arrow
            image, label = _image_column(uri, schema), _label_column(uri, schema)
            parquet.check_groups(uri, file.metadata, image)
            paths = _path_columns(schema, image)
            rows = file.read(columns=[label, *paths])
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"data: {uri} cannot be read: {first_line(error)}") from error
    labels, names = _checked_labels(uri, rows[label]), _base_names(rows, paths, stem)
    table = pa.table({"uri": locators.rows(uri, rows.num_rows), "name": names, "label": labels})
    return _File(uri, _class_names(schema), table)


def _base_names(rows: pa.Table, paths: list[str], stem: str) -> pa.ChunkedArray:
    """What the images' files were called; where that is not known, the stem and the number of the row."""
    numbers = pa.array(range(rows.num_rows), pa.int64()).cast(pa.string())
    stored = _flat(rows[paths[0].partition(".")[0]]) if paths else pa.nulls(rows.num_rows, pa.string())
    base = pc.replace_substring_regex(stored, r"^.*[/\\]", "")
    base = pc.if_else(pc.equal(base, ""), pa.scalar(None, pa.string()), base)
    return pc.coalesce(base, pc.binary_join_element_wise(stem, numbers, "-"))


def _image_column(uri: str, schema: pa.Schema) -> str:
    found = parquet.image_columns(schema)
    if len(found) != 1:
        which = f"{len(found)} columns of images, none of them called image," if found else "no column of images"
        raise UserError(f"data: {uri} has {which} among {', '.join(schema.names)}")
    return found[0]


def _path_columns(schema: pa.Schema, image: str) -> list[str]:
    """The column of the images' paths, if there is one."""
    name, inside, _ = image.partition(".")
    return [f"{name}.path"] if inside and schema.field(name).type.get_field_index("path") >= 0 else []


def _flat(images: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.flatten()[0].cast(pa.string()) for chunk in images.chunks], pa.string())


def _checked_labels(uri: str, labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Raises UserError where an image has no label, as in the test splits of competitions."""
    without = pc.fill_null(pc.less(labels, 0), True)
    if pc.any(without).as_py():
        row = pc.index(without, True).as_py()
        raise UserError(f"data: {uri}: row {row} has no label ({labels[row].as_py()})")
    return labels.cast(pa.int64())


def _label_column(uri: str, schema: pa.Schema) -> str:
    known = [name for name, feature in _features(schema).items() if feature.get("_type") == "ClassLabel"]
    for name in ("label", *(known if len(known) == 1 else ())):
        if name in schema.names and pa.types.is_integer(schema.field(name).type):
            return str(name)
    raise UserError(f"data: {uri} has no column `label` of whole numbers among {', '.join(schema.names)}")


def _class_names(schema: pa.Schema) -> list[str] | None:
    """The names that the file itself has for its labels."""
    column = _features(schema).get("label") or next(
        (each for each in _features(schema).values() if each.get("_type") == "ClassLabel"), {}
    )
    listed = column.get("names")
    if isinstance(listed, dict):  # as some writers have it: the names by number
        listed = [listed[number] for number in sorted(listed, key=int)]
    return [str(name) for name in listed] if listed else None


def _common_names(files: Sequence[_File]) -> list[str] | None:
    """The names that all of the files have for their labels."""
    first, *others = files
    for file in others:
        for label, (said, name) in enumerate(zip_longest(first.names or [], file.names or [])):
            if said != name:
                here, there = (f"called {each!r}" if each is not None else "not named" for each in (name, said))
                raise UserError(f"data: label {label} is {here} in {file.uri}, {there} in {first.uri}")
    return first.names


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _rows(split: str, found: pa.Table, known: Classes) -> pa.Table:
    index = pc.index_in(found["label"], value_set=pa.array(list(known.labels.values()), pa.int64()))
    class_ids = pa.chunked_array([pa.array(list(known.labels), pa.string())]).take(index)
    names = _without_wnid(found["name"], class_ids)
    image_ids = pc.binary_join_element_wise(split, class_ids, names, "/")
    return listing.rows(split, image_ids, found["uri"], class_ids, known)


def _without_wnid(names: pa.ChunkedArray, class_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Drops a class id that was put behind ILSVRC's own name, so that the image has the same id in each layout."""
    parts = pc.extract_regex(names, rf"^(?P<name>.+)_(?P<class_id>{classes.WNID.pattern})(?P<ending>\.\w+)$")
    added = pc.fill_null(pc.equal(pc.struct_field(parts, "class_id"), class_ids), False)
    plain = pc.binary_join_element_wise(pc.struct_field(parts, "name"), pc.struct_field(parts, "ending"), "")
    return pc.if_else(added, plain, names)
