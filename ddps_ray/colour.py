"""Samples as image files store them (grey, palette, ink, 16 and 32 bits, float, transparent) to 8-bit RGB on white."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ddps_ray import tiff
from ddps_ray.errors import BadImage

_NEARLY_BLACK = 16
"""Of 255: what is nowhere brighter was stored for another range, such as 12 bits in 16."""
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# By Pillow's name of how samples are stored: what white may be. Of several, the first that no value exceeds counts.
_WHITE: dict[str, tuple[int, ...]] = {
    "I;12": (4095,),
    **dict.fromkeys(("I;16S", "I;16BS"), (255, 32767)),
    **dict.fromkeys(("I;32N", "I;32S", "I;32BS"), (255, 65535)),
    **dict.fromkeys(("F;32F", "F;32BF"), (1, 255, 65535)),
}
_GREY_STEPS = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class _Stored:
    """How a file stores its pixels, which Pillow forgets when it has loaded them.

    Attributes:
        samples: Pillow's name ("rawmode") of the kind of samples; empty where a format has none.
        frame: Left, top, right and bottom of what is drawn, in pixels.
    """

    samples: str
    frame: tuple[int, int, int, int]


def to_rgb(image: ImageFile) -> Image.Image:
    """Loads an opened image and turns it into 8-bit RGB; what is transparent is laid on white.

    Raises:
        BadImage: Which range its values are of cannot be told, or it would be read wrong.
    """
    if isinstance(image, TiffImageFile):
        tiff.prepare(image)
    stored = _stored(image)
    image.load()
    if image.mode == "P" and image.palette is None:
        raise BadImage("cannot be decoded: its palette is missing")
    flat = _grey(image, stored) if image.mode in _DEEP else _flat(image, stored)
    if stored.frame == (0, 0, *image.size):
        return flat
    canvas = _white("RGB", image.size)
    canvas.paste(flat.crop(stored.frame), stored.frame)
    return canvas


def _stored(image: ImageFile) -> _Stored:
    if not image.tile:
        return _Stored("", (0, 0, *image.size))
    tile = image.tile[0]
    samples = tile.args[0] if isinstance(tile.args, tuple) else tile.args
    frame = tile.extents if image.format == "GIF" else None
    return _Stored(str(samples), frame or (0, 0, *image.size))


def _flat(image: Image.Image, stored: _Stored) -> Image.Image:
    if ";16" in stored.samples and stored.samples.startswith(("RGB", "LA")):
        _refuse_nearly_black(float(np.asarray(image)[..., :3].max()), 255)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data or _meaningless_alpha(image):
        return image.convert("RGB")
    _scale_transparent_colour(image, stored)
    layer = image.convert("RGBA")
    return Image.alpha_composite(_white("RGBA", layer.size), layer).convert("RGB")


def _meaningless_alpha(image: Image.Image) -> bool:
    """Whether all is transparent in a format whose writers leave the alpha at 0, as browsers know."""
    return image.format == "BMP" and image.getchannel("A").getextrema()[1] == 0


def _scale_transparent_colour(image: Image.Image, stored: _Stored) -> None:
    """Pillow scales samples to 8 bits, but not the colour that stands for transparent."""
    if stored.samples in _GREY_STEPS:
        image.info["transparency"] *= _GREY_STEPS[stored.samples]
    elif stored.samples.startswith("RGB;16"):
        raise BadImage("one of its 16-bit colours stands for transparent: convert it to 8 bits")


def _grey(image: Image.Image, stored: _Stored) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    white = next((each for each in _WHITE.get(stored.samples, (65535,)) if high <= each), None)
    if white is None or not low >= 0:  # no number is neither
        raise BadImage(f"values from {low:g} to {high:g} have no known black and white: convert it to 8 or 16 bits")
    _refuse_nearly_black(high, white)
    levels = values.astype(np.float32)
    levels *= 255
    levels /= white
    grey = np.rint(levels, out=levels).astype(np.uint8)
    if isinstance(image, TiffImageFile) and tiff.white_is_zero(image):
        grey = 255 - grey
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey).convert("RGB")


def _refuse_nearly_black(brightest: float, white: int) -> None:
    if 0 < brightest * 255 < _NEARLY_BLACK * white:
        raise BadImage(f"nearly black: its brightest value is {brightest:g} of {white}: scale its values up to that")


def _white(mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.new(mode, size, "white")
