"""Score rows with clusters known by construction, as the score stage would write them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ddps_ray import schemas, score_rows
from ddps_ray.selection.candidates import Candidates

CHANNELS = 8
SCHEMA = schemas.scores(CHANNELS)


def scored(image_id: str, visual: int, aside: float, typicality: float, **changes: Any) -> dict[str, Any]:
    """A row whose feature points along axis `visual`, `aside` to the last axis; its length must not matter."""
    feature = [0.0] * CHANNELS
    length = 1 + sum(image_id.encode()) % 3
    feature[visual], feature[-1] = length, length * aside
    row = score_rows.make(
        image_id=image_id,
        uri=f"/nowhere/{image_id}",
        class_id="leaf",
        label=6,
        width=64,
        height=64,
        scaled_width=96,
        scaled_height=64,
        left=8,
        top=0,
        patch_width=48,
        patch_height=48,
        typicality=typicality,
        typicality_image=typicality / 2,
        dift=feature,
    )
    return row | changes


def failed(image_id: str, **changes: Any) -> dict[str, Any]:
    """A row of an image that could not be scored."""
    row = score_rows.make(image_id=image_id, uri=f"/nowhere/{image_id}", class_id="leaf", label=6, error="not an image")
    return row | changes


def score_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as one shard."""
    return score_rows.table(rows, CHANNELS)


def candidates(rows: Sequence[dict[str, Any]]) -> Candidates:
    """The candidates of rows of one class."""
    return Candidates.from_table(score_table(rows))
