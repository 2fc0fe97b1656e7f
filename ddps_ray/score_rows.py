"""The one place where a row of `schemas.scores` is made, whoever measured it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ddps_ray import schemas

IMAGE = ("image_id", "uri", "class_id", "label", "width", "height", "scaled_width", "scaled_height", "error")
"""Columns that the image's own row has before it is scored."""

_NAMES = schemas.scores(1).names


def make(**columns: Any) -> dict[str, Any]:
    """Returns a row of these columns; the others are null.

    Raises:
        ValueError: There is no such column.
    """
    if unknown := columns.keys() - set(_NAMES):
        raise ValueError(f"a score row has no column {', '.join(sorted(unknown))}")
    return dict.fromkeys(_NAMES) | columns


def of(image: Mapping[str, Any], **measured: Any) -> dict[str, Any]:
    """Returns the row of an image: what is known of it before, and what was measured; errors as in `make`."""
    return make(**{name: image[name] for name in IMAGE if name in image} | measured)


def table(rows: Sequence[Mapping[str, Any]], dift_size: int) -> pa.Table:
    """Puts rows into a table, checked; the feature has `dift_size` channels."""
    schema = schemas.scores(dift_size)
    return schemas.table({name: [row[name] for row in rows] for name in schema.names}, schema)
