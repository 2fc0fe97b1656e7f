"""Patches become images without moving or losing a pixel."""

import io

import numpy as np
from PIL import Image

from ddps_ray import imaging
from ddps_ray.selection.compose import arrange, cut, encode


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_patch_is_what_the_scorer_saw_in_its_box() -> None:
    source = _noise(150, 100)
    seen = imaging.scale(source, 64, 8, 8.0)
    assert seen.size == (96, 64)
    patch = cut(source, seen.size, (24, 8, 48, 48), 48)
    np.testing.assert_array_equal(np.asarray(patch), np.asarray(seen)[8:56, 24:72])
    whole = cut(source, seen.size, (0, 0, 96, 64), 32)
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(seen.resize((32, 32), Image.Resampling.BICUBIC)))


def test_a_mosaic_is_laid_row_by_row() -> None:
    colours = ["red", "lime", "blue", "white"]
    mosaic = arrange([Image.new("RGB", (3, 3), colour) for colour in colours], columns=2)
    assert mosaic.size == (6, 6)
    corners = [mosaic.getpixel(place) for place in [(0, 0), (5, 2), (0, 5), (3, 3)]]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_png_keeps_every_pixel_and_jpg_nearly() -> None:
    smooth = _noise(4, 4).resize((64, 64), Image.Resampling.BICUBIC)
    for file_format, worst, kind in [("png", 0, "PNG"), ("jpg", 8, "JPEG")]:
        read = Image.open(io.BytesIO(encode(smooth, file_format)))
        assert read.format == kind
        assert np.abs(np.asarray(read).astype(int) - np.asarray(smooth)).max() <= worst
