"""From an image and a box to a patch, from patches to a distilled image, and from that to a file's bytes."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ddps_ray import imaging
from ddps_ray.selection.candidates import Box

_ENCODING: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


def cut(image: Image.Image, scaled: tuple[int, int], box: Box, side: int) -> Image.Image:
    """Cuts a patch out of an image, by way of the scaled image that the scorer saw.

    Args:
        image: The source image.
        scaled: Width and height in pixels at which it was scored.
        box: The patch in pixels of that.
        side: Pixels of the square that it becomes.
    """
    return imaging.crop(image.resize(scaled, Image.Resampling.BICUBIC), box, side)


def arrange(patches: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lays square patches of one size into a square of `columns` by `columns`, row by row."""
    side = patches[0].width
    whole = Image.new("RGB", (columns * side, columns * side))
    for slot, patch in enumerate(patches):
        whole.paste(patch, (slot % columns * side, slot // columns * side))
    return whole


def encode(image: Image.Image, file_format: str) -> bytes:
    """Returns a file's bytes: `png` without loss, or `jpg` at quality 95 without colour subsampling."""
    buffer = io.BytesIO()
    image.save(buffer, **_ENCODING[file_format])
    return buffer.getvalue()
