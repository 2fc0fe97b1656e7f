"""Every Parquet file that one stage writes and another reads: column by column, checked at each write."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

_BYTE = 256

LAYOUT = 2
"""Version of what a run directory holds, in its record; a column that has come since the first is marked so.

2: `typicality_error` of the scores, `cluster_typicality` of a set, `class_digest` of an evaluation, `wnid` of the
manifest.
"""


def _added(name: str, kind: pa.DataType, layout: int) -> pa.Field:
    """A column that earlier layouts do not have; there it reads as null."""
    return pa.field(name, kind, metadata={"layout": str(layout)})


MANIFEST = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # <split>/<class_id>/<name>, the same in every layout
        pa.field("uri", pa.string(), nullable=False),  # where the bytes are, as `sources.locators` reads it
        pa.field("class_id", pa.string(), nullable=False),  # name that can be a folder's, e.g. a wnid
        pa.field("class_text", pa.string(), nullable=False),  # what the prompt calls the class
        pa.field("label", pa.int32(), nullable=False),  # index among the sorted class ids, or the data set's own
        pa.field("split", pa.string(), nullable=False),  # name of the split
        _added("wnid", pa.string(), layout=2),  # WordNet id of the class, where it is known
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # the stage that gave the image up
        pa.field("reason", pa.string(), nullable=False),
    ]
)

DISTILLED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # path of the distilled image inside its set
        pa.field("slot", pa.int32(), nullable=False),  # 0 for a single patch; 0..3 row by row in a mosaic of four
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("class_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),  # the data set's label, whatever the subset
        pa.field("left", pa.int32(), nullable=False),  # patch box in pixels of the scaled image
        pa.field("top", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("scaled_width", pa.int32(), nullable=False),  # the scaled image's size, in which the box is given
        pa.field("scaled_height", pa.int32(), nullable=False),
        pa.field("typicality", pa.float32(), nullable=False),  # T of the image's most typical patch
        pa.field("cluster", pa.int32()),  # rank of its cluster by median T, 0 the most typical; null if not clustered
        _added("cluster_typicality", pa.float32(), layout=2),  # median T of its whole cluster, taken or not
        pa.field("rank", pa.int32()),  # rank inside its cluster by distance to the centroid, 0 the nearest
        pa.field("reason", pa.string(), nullable=False),  # why it was chosen, in words
    ]
)

EVALUATION = pa.schema(
    [
        pa.field("set_name", pa.string(), nullable=False),
        pa.field("selector", pa.string(), nullable=False),
        pa.field("ipc", pa.int32(), nullable=False),
        pa.field("teacher", pa.string(), nullable=False),
        pa.field("student", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("images", pa.int32(), nullable=False),  # distilled images trained on
        pa.field("epochs", pa.int32(), nullable=False),
        pa.field("accuracy_last", pa.float32(), nullable=False),  # top-1 on the validation split, 0..1: the result
        pa.field("accuracy_best", pa.float32(), nullable=False),  # best epoch's; chosen on the validation split itself
        pa.field("best_epoch", pa.int32(), nullable=False),
        pa.field("accuracy_teacher", pa.float32(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),  # JSON of everything else the number depends on
        _added("class_digest", pa.string(), layout=2),  # of the set's class ids: only sets of the same can be compared
        _added("protocol", pa.string(), layout=2),  # name of the preset; `settings` has what it came to
        _added("seconds", pa.float32(), layout=2),  # of the training, validations included
        _added("memory", pa.int64(), layout=2),  # bytes: most on the GPU, or of the process where there is none
        _added("set_digest", pa.string(), layout=2),  # of the set's metadata: what it was trained on
        _added("set_bytes", pa.int64(), layout=2),  # of the set's image files
        _added("parts", pa.int32(), layout=2),  # into which each worker's share of a batch was cut, for want of memory
        _added("dtype", pa.string(), layout=2),  # of the networks' computation, e.g. bfloat16
        _added("label_bytes", pa.int64(), layout=2),  # of the soft labels stored ahead for it; null without
    ]
)

FAILURE = pa.schema(
    [
        pa.field("set_name", pa.string(), nullable=False),
        pa.field("ipc", pa.int32(), nullable=False),
        pa.field("teacher", pa.string(), nullable=False),
        pa.field("student", pa.string(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
        _added("set_digest", pa.string(), layout=2),  # these two as in `EVALUATION`
        _added("class_digest", pa.string(), layout=2),
    ]
)
"""A student that could not be trained, and why; it is tried again when the stage runs again."""


PACKED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("class_id", pa.string(), nullable=False),
        pa.field("class_text", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary()),  # the image's file as it was; null where it could not be read
        pa.field("error", pa.string()),  # reason why there is none
        _added("wnid", pa.string(), layout=2),  # as in the manifest
    ]
)


def scores(dift_size: int) -> pa.Schema:
    """Returns the schema of the score shards of a model whose DIFT feature has `dift_size` channels.

    A row whose `error` is set has no other measurement: its image could not be scored. It counts as done.
    """
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("class_id", pa.string(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("width", pa.int32()),  # original size in pixels, upright
            pa.field("height", pa.int32()),
            pa.field("scaled_width", pa.int32()),  # size at which it was scored
            pa.field("scaled_height", pa.int32()),
            pa.field("left", pa.int32()),  # most typical patch, in pixels of the scaled image
            pa.field("top", pa.int32()),
            pa.field("patch_width", pa.int32()),
            pa.field("patch_height", pa.int32()),
            pa.field("typicality", pa.float32()),  # T(p|c) of that patch: high = typical
            _added("typicality_error", pa.float32(), layout=2),  # its standard error over the N pairs; null if N = 1
            pa.field("typicality_image", pa.float32()),  # T(z|c): mean of the whole map
            pa.field("map_width", pa.int32()),  # latent size; the map has map_height * map_width values, row by row
            pa.field("map_height", pa.int32()),
            pa.field("map", pa.list_(pa.float16())),  # T at every latent position, if score.store_map
            pa.field("timesteps", pa.list_(pa.int16())),  # the N time steps drawn for this image, if score.store_terms
            pa.field("terms", pa.list_(pa.float16())),  # N maps, one after the other, if score.store_terms
            pa.field("dift", pa.list_(pa.float16(), dift_size)),  # spatial mean of the patch's diffusion feature
            pa.field("error", pa.string()),  # reason why there is no score
        ]
    )


def labels(classes: int, top: int | None) -> pa.Schema:
    """Returns the schema of soft labels that are stored ahead: a row for each image of each batch, in their order.

    Args:
        classes: Outputs of the teacher.
        top: How many logits of each image are kept; None for all.
    """
    number = pa.uint8() if classes <= _BYTE else pa.uint16()
    kept = [pa.field("logits", pa.list_(pa.float16(), classes), nullable=False)]  # by class
    if top is not None:
        kept = [
            pa.field(
                "classes", pa.list_(number, top), nullable=False
            ),  # the classes that the teacher finds most likely
            pa.field("logits", pa.list_(pa.float16(), top), nullable=False),  # theirs, descending
            pa.field("rest", pa.float32(), nullable=False),  # the one logit that stands for each of the other classes
        ]
    return pa.schema(
        [
            pa.field("epoch", pa.int32(), nullable=False),  # from 0 on
            pa.field("step", pa.int32(), nullable=False),  # number of the batch in its epoch, from 0 on
            pa.field("image", pa.int32(), nullable=False),  # place of the image among the set's, sorted by file name
            pa.field("swap_columns", pa.bool_()),  # of a mosaic: whether its columns change places; null if no mosaic
            pa.field("swap_rows", pa.bool_()),  # the same of its rows
            pa.field("crop_left", pa.int16(), nullable=False),  # crop box, in pixels of the square image
            pa.field("crop_top", pa.int16(), nullable=False),
            pa.field("crop_width", pa.int16(), nullable=False),
            pa.field("crop_height", pa.int16(), nullable=False),
            pa.field("flip", pa.bool_(), nullable=False),  # whether the crop is mirrored
            pa.field("partner", pa.int32()),  # CutMix: place of the image of which a box is pasted in; null without
            pa.field("cut_left", pa.int16()),  # that box, in pixels of the crop; right and bottom exclusive
            pa.field("cut_top", pa.int16()),
            pa.field("cut_right", pa.int16()),
            pa.field("cut_bottom", pa.int16()),
            pa.field("kept", pa.float32()),  # share of the crop's area that is its own; null without CutMix
            *kept,
        ]
    )


def table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Builds a table that has exactly this schema; a column that came later and is not given is null.

    Raises:
        ValueError: A column is missing, unknown, or null where it may not be.
        TypeError: A value has another type; where it cannot be converted to it, ValueError.
    """
    required = {name for name, field in _fields(schema) if field.metadata is None}
    if wrong := (required - set(columns)) | (set(columns) - set(schema.names)):
        raise ValueError(f"columns {sorted(wrong)} do not match the schema")
    rows = max((len(column) for column in columns.values()), default=0)
    absent = {name: [None] * rows for name in schema.names if name not in columns}
    given = columns | absent
    return check(pa.table({name: pa.array(given[name], field.type) for name, field in _fields(schema)}, schema), schema)


def dataset(paths: Sequence[str], filesystem: fs.FileSystem, schema: pa.Schema) -> ds.Dataset:
    """Opens Parquet files as rows of this schema: a column that a file does not have, since it came later, is null.

    Args:
        paths: The files, in their file system.
        filesystem: That.
        schema: Of the rows.
    """
    return ds.dataset(list(paths), schema=schema, format="parquet", filesystem=filesystem)


def fits(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether files with this schema hold rows of `schema`: all columns but those that came later must be there."""
    if set(found.names) - set(schema.names):
        return False
    places = {name: found.get_field_index(name) for name in schema.names}
    return all(
        found.field(places[field.name]).type == field.type if places[field.name] >= 0 else field.metadata is not None
        for field in schema
    )


def check(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns `rows` unchanged if they obey the schema.

    Raises:
        ValueError: They do not.
    """
    if not rows.schema.equals(schema):
        raise ValueError(f"schema differs: {rows.schema} is not {schema}")
    for name, field in _fields(schema):
        if not field.nullable and rows.column(name).null_count:
            raise ValueError(f"column {name} has {rows.column(name).null_count} nulls and may have none")
    return rows


def _fields(schema: pa.Schema) -> list[tuple[str, pa.Field]]:
    return [(field.name, field) for field in schema]
