"""Hugging Face's Parquet layout: `train-00000-of-00294.parquet` of an image's bytes and path, and a label."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import classes, containers, listing, locators, parquet
from ddps_ray.sources.listing import PLAIN, Classes, Listing, Options

SUFFIX = ".parquet"
_THREADS = 32
_MOST = 2**31 - 1  # of a label in the manifest
_METADATA = b"huggingface"


@dataclass(frozen=True)
class _File:
    uri: str
    names: list[str] | None  # its own, of the labels
    rows: pa.Table  # uri, base name and label, a number or a text


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether a folder has Parquet files with a column of images."""
    return any(_has_images(storage.join(root, paths[0])) for paths in containers.found(root, SUFFIX, splits).values())


def list_images(
    root: str,
    splits: Sequence[str],
    names: Mapping[str, str] | None = None,
    ground_truth: str | None = None,
    options: Options = PLAIN,
) -> Listing:
    """Lists a data set from its labels and paths; no image is read.

    Labels are numbers, whose classes the files' own ClassLabel names, else the user's n-th line; or they are text, the
    name of the class. Rows are in the order of the files.

    Args:
        root: Folder or URI.
        splits: What the names of the files begin with, or the folders that they are in, the training split first.
        names: The user's names of the classes; see `classes.numbered`.
        ground_truth: Not used.
        options: Columns of the images and of the labels, where several could be.

    Raises:
        UserError: There are no files of a split, no or several columns of images or of labels, no names, names that
            differ from file to file or cannot be read, an image has no label or too large a one, or a row group is too
            large to be read.
    """
    files = containers.of_splits(root, SUFFIX, splits)
    found = {split: _read_all(root, paths, options) for split, paths in files.items()}
    known = _classes(root, found, names)
    tables = {split: pa.concat_tables([_rows(split, file.rows, known) for file in found[split]]) for split in splits}
    return Listing(tables, known.texts, skipped=0, notes=containers.notes(files))


def _classes(root: str, found: Mapping[str, list[_File]], names: Mapping[str, str] | None) -> Classes:
    every = [file for files in found.values() for file in files]
    kinds = {file.rows["label"].type: file.uri for file in every}
    if len(kinds) > 1:
        raise UserError(f"data: the labels are {' and '.join(f'{kind} in {uri}' for kind, uri in kinds.items())}")
    used = {split: list(_distinct(files)) for split, files in found.items()}
    if pa.string() in kinds:
        return classes.of_labels(root, used, names)
    return classes.numbered(root, {label for labels in used.values() for label in labels}, _common_names(every), names)


def _distinct(files: Sequence[_File]) -> dict[Any, None]:
    """The labels of files in the order in which they come."""
    return dict.fromkeys(label for file in files for label in file.rows["label"].unique().to_pylist())


def _has_images(uri: str) -> bool:
    schema = _schema(uri)
    return bool(parquet.image_columns(schema)) or any(parquet.image_columns(schema, name) for name in schema.names)


def _stem(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(SUFFIX)


def _schema(uri: str) -> pa.Schema:
    filesystem, path = storage.open_uri(uri)
    try:
        return pq.read_schema(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"data: {uri} cannot be read{containers.hint(uri) or ': ' + first_line(error)}") from error


def _read_all(root: str, paths: Sequence[str], options: Options) -> list[_File]:
    with ThreadPoolExecutor(_THREADS) as threads:  # a store answers slowly, row group by row group
        return list(threads.map(lambda path: _read(storage.join(root, path), _stem(path), options), paths))


def _read(uri: str, stem: str, options: Options) -> _File:
    filesystem, place = storage.open_uri(uri)
    try:
        with pq.ParquetFile(place, filesystem=filesystem) as file:
            schema = file.schema_arrow
            image, label = _image_column(uri, schema, options), _label_column(uri, schema, options)
            parquet.check_groups(uri, file.metadata, image)
            paths = _path_columns(schema, image)
            rows = file.read(columns=[label, *paths], use_threads=False)  # Arrow's threads are as few as the cores
            rows.validate(full=True)  # text that is not UTF-8
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"data: {uri} cannot be read{containers.hint(uri) or ': ' + first_line(error)}") from error
    labels, names = _checked_labels(uri, rows[label]), _base_names(rows, paths, stem)
    places = locators.rows(uri, rows.num_rows, options.image_column)
    return _File(uri, class_names(uri, schema, label), pa.table({"uri": places, "name": names, "label": labels}))


def _base_names(rows: pa.Table, paths: list[str], stem: str) -> pa.ChunkedArray:
    """What the images' files were called; where that is not known, the stem and the number of the row."""
    numbers = pa.array(range(rows.num_rows), pa.int64()).cast(pa.string())
    stored = _flat(rows[paths[0].removesuffix(".path")]) if paths else pa.nulls(rows.num_rows, pa.string())
    base = pc.replace_substring_regex(stored, r"^.*[/\\]", "")
    base = pc.if_else(pc.equal(base, ""), pa.scalar(None, pa.string()), base)
    return pc.coalesce(base, pc.binary_join_element_wise(stem, numbers, "-"))


def _image_column(uri: str, schema: pa.Schema, options: Options) -> str:
    found = parquet.image_columns(schema, options.image_column)
    if len(found) == 1:
        return found[0]
    there = f"among {', '.join(schema.names)}"
    if options.image_column is not None:
        raise UserError(f"data.image_column: {uri} has no column {options.image_column!r} of encoded images {there}")
    if found:
        raise UserError(
            f"data: {uri} has {len(found)} columns of images, none of them called image, {there}: name one in "
            "data.image_column"
        )
    binary = [name for name in schema.names if parquet.image_columns(schema, name)]
    remedy = f"name one in data.image_column, such as {binary[0]}" if binary else "paths to images are not followed"
    raise UserError(f"data: {uri} has no column of images {there}: {remedy}")


def _path_columns(schema: pa.Schema, image: str) -> list[str]:
    """The column of the images' paths, if there is one."""
    name = image.removesuffix(".bytes")
    inside = image != name and name in schema.names and pa.types.is_struct(schema.field(name).type)
    return [f"{name}.path"] if inside and schema.field(name).type.get_field_index("path") >= 0 else []


def _flat(images: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.flatten()[0].cast(pa.string()) for chunk in images.chunks], pa.string())


def _checked_labels(uri: str, labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Raises UserError where an image has no label, as in the test splits of competitions, or too large a one."""
    kind = _value_type(labels.type)
    numbers = pa.types.is_integer(kind)
    labels = labels.cast(kind if numbers else pa.string())
    if numbers and kind.bit_width >= 32:
        row = pc.index(pc.greater(labels, pa.scalar(_MOST, kind)), True).as_py()
        if row >= 0:
            raise UserError(f"data: {uri}: row {row} has the label {labels[row].as_py()}, over {_MOST}")
    labels = labels.cast(pa.int64()) if numbers else labels
    without = pc.fill_null(pc.less(labels, 0) if numbers else pc.equal(pc.utf8_trim_whitespace(labels), ""), True)
    if pc.any(without).as_py():
        row = pc.index(without, True).as_py()
        raise UserError(f"data: {uri}: row {row} has no label ({labels[row].as_py()})")
    return labels


def _label_column(uri: str, schema: pa.Schema, options: Options) -> str:
    """The column that is named, or called `label`, or the only one whose labels the file itself names."""
    there = f"among {', '.join(schema.names)}"
    if (wanted := options.label_column) is not None:
        if wanted not in schema.names:
            raise UserError(f"data.label_column: {uri} has no column {wanted!r} {there}")
        if not _is_label(schema, wanted):
            kind = schema.field(wanted).type
            raise UserError(f"data.label_column: {uri}: {wanted!r} is {kind}, and neither whole numbers nor text")
        return wanted
    if _is_label(schema, "label"):
        return "label"
    named = [name for name, feature in _features(uri, schema).items() if feature.get("_type") == "ClassLabel"]
    named = [name for name in named if _is_label(schema, name)]
    if len(named) == 1:
        return named[0]
    if named:
        raise UserError(f"data: {uri} has the labels {', '.join(named)}: name one in data.label_column")
    raise UserError(
        f"data: {uri} has no column `label` of whole numbers {there}, nor of text: name the one to use in "
        "data.label_column"
    )


def _is_label(schema: pa.Schema, name: str) -> bool:
    if schema.names.count(name) != 1:
        return False
    kind = _value_type(schema.field(name).type)
    return any(test(kind) for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def class_names(uri: str, schema: pa.Schema, label: str) -> list[str] | None:
    """Returns the names that a Parquet file itself has for its labels, in their order; None where it has none.

    Args:
        uri: The file, for errors.
        schema: Its own, with Hugging Face's metadata.
        label: Column of the labels.

    Raises:
        UserError: They cannot be read.
    """
    listed = _features(uri, schema).get(label, {}).get("names")
    if listed is None:
        return None
    if isinstance(listed, dict):  # as some writers have it: the names by number
        listed = _by_number(uri, label, listed)
    if not isinstance(listed, list) or not all(isinstance(name, str | int) for name in listed):
        raise UserError(f"data: {uri}: the names of the labels {label!r} in its metadata are no list of texts")
    return [str(name) for name in listed] or None


def _by_number(uri: str, label: str, listed: Mapping[str, Any]) -> list[Any]:
    by_number = {int(number): name for number, name in listed.items() if number.isdecimal() and len(number) < 10}
    if sorted(by_number) != list(range(len(listed))):
        raise UserError(
            f"data: {uri}: the names of the labels {label!r} in its metadata are not numbered from 0 to "
            f"{len(listed) - 1}: {', '.join(sorted(listed)[:5])[:80]}"
        )
    return [by_number[number] for number in range(len(listed))]


def _common_names(files: Sequence[_File]) -> list[str] | None:
    """The names that all of the files have for their labels."""
    first, *others = files
    for file in others:
        for label, (said, name) in enumerate(zip_longest(first.names or [], file.names or [])):
            if said != name:
                here, there = (f"called {each!r}" if each is not None else "not named" for each in (name, said))
                raise UserError(f"data: label {label} is {here} in {file.uri}, {there} in {first.uri}")
    return first.names


def _features(uri: str, schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What the metadata of Hugging Face say of the columns; nothing where there are none."""
    try:
        features = json.loads((schema.metadata or {})[_METADATA])["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    except RecursionError as error:
        raise UserError(f"data: {uri}: its metadata {_METADATA.decode()!r} are nested too deeply") from error
    if not isinstance(features, dict | NoneType):
        raise UserError(f"data: {uri}: the features in its metadata {_METADATA.decode()!r} are no table of columns")
    return {name: feature for name, feature in (features or {}).items() if isinstance(feature, dict)}


def _rows(split: str, found: pa.Table, known: Classes) -> pa.Table:
    class_ids = pa.chunked_array([pa.array(list(known.labels), pa.string())]).take(_places(found["label"], known))
    names = _without_wnid(found["name"], class_ids)
    image_ids = pc.binary_join_element_wise(split, class_ids, names, "/")
    return listing.rows(split, image_ids, found["uri"], class_ids, known)


def _places(labels: pa.ChunkedArray, known: Classes) -> pa.ChunkedArray:
    """Where each label's class is among those that are known."""
    if pa.types.is_integer(labels.type):
        return pc.index_in(labels, value_set=pa.array(list(known.labels.values()), pa.int64()))
    tags = labels.unique()
    class_ids = pa.array([classes.safe(tag) for tag in tags.to_pylist()], pa.string())
    ours = pc.index_in(class_ids, value_set=pa.array(list(known.labels), pa.string()))
    return pa.chunked_array([ours]).take(pc.index_in(labels, value_set=tags))


def _without_wnid(names: pa.ChunkedArray, class_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Drops a class id that was put behind ILSVRC's own name, so that the image has the same id in each layout."""
    parts = pc.extract_regex(names, rf"^(?P<name>.+)_(?P<class_id>{listing.WNID.pattern})(?P<ending>\.\w+)$")
    added = pc.fill_null(pc.equal(pc.struct_field(parts, "class_id"), class_ids), False)
    plain = pc.binary_join_element_wise(pc.struct_field(parts, "name"), pc.struct_field(parts, "ending"), "")
    return pc.if_else(added, plain, names)
