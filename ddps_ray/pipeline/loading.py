"""Decoding for stage `score`, on CPUs; without torch, so that its processes begin fast and stay small."""

import pyarrow as pa
from PIL import Image

from ddps_ray import imaging
from ddps_ray.config import Score
from ddps_ray.errors import BadImage
from ddps_ray.pipeline.cluster import answering
from ddps_ray.sources.reading import attempt

SIZES = ("width", "height", "scaled_width", "scaled_height")
"""Columns of an image's original and scaled size."""

_PIXELS = pa.schema([("pixels", pa.large_binary()), ("error", pa.string())])


def load(rows: pa.Table, settings: Score, factor: int) -> pa.Table:
    """Adds to manifest rows the scaled pixels and sizes, or the reason why there are none.

    Args:
        rows: Manifest rows.
        settings: The recipe's section.
        factor: Pixels of the image's side to one latent position.

    Raises:
        UserError: The store does not answer, although its client has tried again and again.
    """

    def prepare(image: Image.Image) -> tuple[tuple[int, int], Image.Image]:
        return image.size, imaging.scale(image, settings.size, factor, settings.max_aspect)

    with answering():
        results = attempt(rows.column("uri").to_pylist(), prepare)
    columns: dict[str, list[object]] = {name: [] for name in (*_PIXELS.names, *SIZES)}
    for result in results:
        bad = isinstance(result, BadImage)
        columns["error"].append(str(result) if bad else None)
        columns["pixels"].append(None if isinstance(result, BadImage) else result[1].tobytes())
        sizes = [None] * 4 if isinstance(result, BadImage) else [*result[0], *result[1].size]
        for name, size in zip(SIZES, sizes, strict=True):
            columns[name].append(size)
    for field in _PIXELS:
        rows = rows.append_column(field, pa.array(columns[field.name], field.type))
    for name in SIZES:
        rows = rows.append_column(name, pa.array(columns[name], pa.int32()))
    return rows
