"""What Pillow reads wrong of a TIFF, put right before it is loaded, or refused."""

from PIL import ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

from ddps_ray.errors import BadImage

_SUBFILE, _BITS, _WHITE_IS_ZERO, _PLANES, _PALETTE, _SAMPLE_FORMAT, _SUBSAMPLING = 254, 258, 262, 284, 320, 339, 530
# libtiff swaps the bytes of big-endian samples itself, and Pillow would do so once more.
_SWAPPED = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}


def prepare(image: TiffImageFile) -> None:
    """Puts right how an opened TIFF will be loaded.

    Raises:
        BadImage: It would be read wrong.
    """
    reason = _unreadable(image)
    if reason:
        raise BadImage(f"a TIFF {reason}: convert it to 8-bit RGB")
    tile = image.tile[0]
    if tile.codec_name == "libtiff" and isinstance(tile.args, tuple):
        image.tile = [tile._replace(args=(_SWAPPED.get(tile.args[0], tile.args[0]), *tile.args[1:]))]
    colours = image.tag_v2.get(_PALETTE, ())
    if image.mode in ("P", "PA") and max(colours) < 256:  # of 8 bits, where TIFF wants 16
        image.palette = ImagePalette.raw("RGB;L", colours)


def white_is_zero(image: TiffImageFile) -> bool:
    """Whether larger values are darker; Pillow turns them only if they are of 8 bits or fewer."""
    return bool(image.tag_v2.get(_WHITE_IS_ZERO) == 0)


def _unreadable(image: TiffImageFile) -> str | None:
    tags, bits = image.tag_v2, max(image.tag_v2.get(_BITS, (1,)))
    uncompressed = image.tile[0].codec_name == "raw"
    planes = tags.get(_PLANES) == 2
    reasons = {
        "whose first picture is a preview only": tags.get(_SUBFILE) in (1, 3),
        "that does not say whether 0 is black or white": _WHITE_IS_ZERO not in tags and image.mode != "RGB",
        "of signed 8-bit samples": bits == 8 and 2 in tags.get(_SAMPLE_FORMAT, ()),
        "with planes of more than 8 bits": planes and uncompressed and bits > 8,
        f"with planes of {image.mode}": planes and image.mode in ("LA", "La", "PA", "LAB"),
        "of subsampled YCbCr": image.mode == "YCbCr" and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1),
    }
    return next((reason for reason, found in reasons.items() if found), None)
