"""Image bytes to upright RGB at the size at which they are scored; what cannot be used is a BadImage with a reason."""

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ddps_ray.errors import BadImage

MAX_PIXELS = 100_000_000
"""An image of more pixels is refused before it is decompressed."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# What Pillow would warn of is refused by `decode` or harmless; filters are per process, and decoding is in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Of Pillow's formats those of photographs; for others it would start programs, such as Ghostscript, on what is read.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes) -> Image.Image:
    """Decodes an image: the first frame, turned upright by its EXIF orientation, as 8-bit RGB.

    Sixteen-bit grey is scaled to eight bits; transparency is laid on white.

    Raises:
        BadImage: Empty, truncated, not an image, or more pixels than `MAX_PIXELS`.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"more than {MAX_PIXELS} pixels")
        image.load()
        return _rgb(_upright(image))
    except UnidentifiedImageError as error:
        raise BadImage("not an image") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {MAX_PIXELS} pixels") from error
    except BadImage:
        raise
    except Exception as error:  # what a damaged file makes Pillow's decoders raise is of any kind
        raise BadImage(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def scale(image: Image.Image, size: int, multiple: int, max_aspect: float) -> Image.Image:
    """Resizes an image so that its shorter edge is `size`, keeping the ratio; the longer edge is rounded to a multiple.

    Args:
        image: Any size.
        size: Pixels of the shorter edge.
        multiple: The VAE's scale factor: each latent position stands for `multiple`×`multiple` whole pixels.
        max_aspect: Largest ratio of the edges.

    Raises:
        BadImage: The ratio is larger.
    """
    return image.resize(scaled_size(*image.size, size, multiple, max_aspect), Image.Resampling.BICUBIC)


def scaled_size(width: int, height: int, size: int, multiple: int, max_aspect: float) -> tuple[int, int]:
    """Returns the width and height that `scale` gives an image; arguments and errors as there."""
    short, long = sorted((width, height))
    if long > max_aspect * short:
        raise BadImage(f"aspect ratio {long / short:.1f} is over {max_aspect:g}")
    long = max(size, round(size * long / short / multiple) * multiple)
    return (long, size) if width >= height else (size, long)


def crop(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    """Cuts a box (left, top, width, height) out of an image and resizes it to `size`×`size`."""
    left, top, width, height = box
    patch = image.crop((left, top, left + width, top + height))
    return patch if patch.size == (size, size) else patch.resize((size, size), Image.Resampling.BICUBIC)


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image by its EXIF orientation; ImageOps.exif_transpose fails on other, odd tags, which it rewrites."""
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        levels = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")
