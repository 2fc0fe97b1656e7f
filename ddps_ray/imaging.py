"""Image bytes to upright RGB at the size at which they are scored; what cannot be used is a BadImage with a reason."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import ExifTags, Image, UnidentifiedImageError

from ddps_ray import colour, metadata
from ddps_ray.errors import BadImage, first_line

MAX_PIXELS = 100_000_000
"""An image of more pixels is refused before it is decompressed."""
# Of Pillow's formats those of photographs; for others it would start programs, such as Ghostscript, on what is read.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is decoded, by Pillow's names."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# What Pillow would warn of is refused by `decode` or harmless; filters are per process, and decoding is in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# glibc keeps freed blocks of up to 32 MiB for the thread that had them; Pillow's are of 16, unless told otherwise.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Room:
    """Pixels that all threads of a process may decode at one time."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until so many are free, and holds them."""
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


ROOM = _Room(2 * MAX_PIXELS)
"""Of `decode`."""


def decode(data: bytes) -> Image.Image:
    """Decodes an image: the first picture, turned upright by its EXIF orientation, as 8-bit RGB on white.

    Threads that together would decode more than two of the largest images wait: one takes some 16 bytes a pixel.
    Metadata, whatever it is, costs no image; where it cannot be read, there is no orientation. docs/images.md says
    what becomes of each kind of samples.

    Raises:
        BadImage: Empty, truncated, not an image, more pixels than `MAX_PIXELS`, or samples of an unknown range.
    """
    if not data:
        raise BadImage("empty file")
    pixels, turns = metadata.split(data)
    try:
        image = Image.open(io.BytesIO(pixels), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"more than {MAX_PIXELS} pixels")
        with ROOM.taken(image.width * image.height):
            rgb = colour.to_rgb(image)
            image.info.update(turns)
            return _upright(image, rgb)
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(pixels)) from error
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


def _unidentified(data: bytes) -> str:
    """Asks the format whose mark the file begins with why it does not open it, which Image.open keeps to itself."""
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(data[:16]) is not True:
            continue
        try:
            factory(io.BytesIO(data), "")
        except Exception as error:  # noqa: BLE001 - as in `decode`
            if not str(error).startswith("not a "):
                return f"cannot be decoded: {name}: {first_line(error)}; if it is whole, convert it to 8-bit RGB"
    return "not an image"


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Turns `rgb` by the EXIF of `image`; ImageOps.exif_transpose fails on other, odd tags, which it rewrites."""
    turn = None
    with suppress(Exception):  # no orientation can be read from garbage
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return rgb if turn is None else rgb.transpose(turn)
