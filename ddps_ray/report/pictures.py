"""Images for the page: small WebP thumbnails as data URIs, patch boxes, and typicality maps laid over photographs."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageOps

_COLOURS = colormaps["RdBu_r"]
_QUALITY = 78
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """An image in the page.

    Attributes:
        src: Data URI.
        alt: What it shows, for who does not see it.
        width: Pixels of the stored thumbnail.
        height: The same.
    """

    src: str
    alt: str
    width: int
    height: int


def picture(image: Image.Image, alt: str, most: int) -> Picture:
    """Shrinks an image so that its longer side is at most `most` pixels, and embeds it."""
    if max(image.size) > most:
        image = ImageOps.contain(image, (most, most), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY, method=4)
    return Picture(f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}", alt, *image.size)


def with_box(image: Image.Image, box: Box) -> Image.Image:
    """Draws a box (left, top, right, bottom, in pixels) as a white line with dark edges, seen on any background."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    left, top = (max(0, round(value)) for value in box[:2])
    right, bottom = (min(most, round(value)) - 1 for value, most in zip(box[2:], image.size, strict=True))
    draw.rectangle((left, top, right, bottom), outline=(20, 20, 20), width=6)
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=(255, 255, 255), width=4)
    return image


def heat(image: Image.Image, map_HW: np.ndarray, limit: float) -> Image.Image:
    """Lays a typicality map over a faded grey copy of its image: red above zero, blue below, clear at zero.

    Args:
        image: The image that was scored.
        map_HW: T at every latent position.
        limit: |T| at which the colour is strongest.
    """
    value = np.asarray(Image.fromarray(map_HW.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC))
    value = np.clip(value / limit, -1, 1)
    colour_HWC = _COLOURS((value + 1) / 2)[..., :3] * 255
    grey_HW1 = 110 + 0.55 * np.asarray(image.convert("L"), np.float32)[..., None]
    alpha_HW1 = (0.15 + 0.7 * np.abs(value) ** 0.7)[..., None]
    return Image.fromarray((alpha_HW1 * colour_HWC + (1 - alpha_HW1) * grey_HW1).round().clip(0, 255).astype(np.uint8))


def colour_stops(count: int = 9) -> list[str]:
    """The heat map's colours from −limit to +limit, for a legend."""
    return ["#" + "".join(f"{round(255 * c):02x}" for c in _COLOURS(i / (count - 1))[:3]) for i in range(count)]
