"""Image files put together by hand, with what no library writes: odd metadata and rare kinds of samples."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Made = str  # where it is
Maker = Callable[[Path], Made]
Samples = np.ndarray[Any, Any]
Tags = dict[int, tuple[int, bytes | list[int]] | None]
"""By the number of a TIFF or EXIF tag: its type, and its values, or their bytes as they are; None to leave it out."""

WIDTH, HEIGHT = 48, 32
SIZE = (WIDTH, HEIGHT)
RED, WHITE, BLUE, BLACK, GREY = (255, 0, 0), (255, 255, 255), (0, 0, 255), (0, 0, 0), (128, 128, 128)
# What is expected: the size, the colour of the upper left corner, and for these that of the lower right.
PICTURE = (SIZE, RED, BLUE)
TURNED = ((HEIGHT, WIDTH), BLUE, RED)  # by orientation 8
TONES = (SIZE, GREY, WHITE)
CANNOT = r"cannot be decoded: \w+: .+; if it is whole, convert it to 8-bit RGB"

NOISE = np.random.default_rng(0).bytes(500)
RAW, DEFLATE = 1, 8  # compression of a TIFF
_TYPES = {1: "B", 3: "H", 4: "I", 5: "I", 11: "f"}


def picture(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Red at the left, blue at the right: a turn or another order of channels would be seen."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2 + 1, 0] = 255
    pixels[:, width // 2 + 1 :, 2] = 255
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def file(name: str, data: bytes | Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Made:
        (folder / name).write_bytes(data() if callable(data) else data)
        return str(folder / name)

    return make


def animated(form: str, **options: Any) -> bytes:
    frames = [picture(), Image.new("RGB", (WIDTH, HEIGHT), "lime")]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)


def damaged(data: bytes, mark: bytes, start: int, garbage: bytes) -> bytes:
    """Overwrites what lies `start` bytes behind a mark."""
    place = data.index(mark) + start
    return data[:place] + garbage + data[place + len(garbage) :]


def levels(corner: float, brightest: float, kind: Any) -> Samples:
    """Grey: one level everywhere but in the last pixel."""
    samples = np.full((HEIGHT, WIDTH), corner, kind)
    samples[-1, -1] = brightest
    return samples


def colours(corner: tuple[int, ...], kind: Any = np.uint8) -> Samples:
    return np.full((HEIGHT, WIDTH, len(corner)), corner, kind)


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(image: Image.Image, before: bytes = b"", behind: bytes = b"", **options: Any) -> bytes:
    """A PNG with chunks before and behind its pixels."""
    data = encoded(image, "PNG", **options)
    pixels, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:pixels] + before + data[pixels:end] + behind + data[end:]


def raw_png(rows: Samples, width: int, depth: int, colours: int, before: bytes = b"") -> bytes:
    """A PNG of rows of packed samples, of any depth and type of colour."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(image: Image.Image, *segments: bytes) -> bytes:
    """A JPEG with segments before its own."""
    data = encoded(image, "JPEG", quality=95, subsampling=0)
    return data[:2] + b"".join(segments) + data[2:]


def exif(tags: Tags) -> bytes:
    return b"II*\0" + struct.pack("<I", 8) + _directory("<", tags, 8)


def webp(chunks: list[tuple[bytes, bytes]], length: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for kind, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def webp_chunks(image: Image.Image, **options: Any) -> Iterator[tuple[bytes, bytes]]:
    data, place = encoded(image, "WEBP", lossless=True, **options), 12
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        yield kind, data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def gif(image: Image.Image, before: bytes = b"", canvas: tuple[int, int] | None = None, at: int = 0) -> bytes:
    """A GIF with blocks before its picture, which lies at (`at`, `at`) of a canvas."""
    data = encoded(image, "GIF")
    palette = 13 + (6 << (data[10] & 7))
    picture = bytearray(data[data.index(b",\0\0\0\0", palette) :])
    struct.pack_into("<HH", picture, 1, at, at)
    return data[:6] + struct.pack("<HH", *(canvas or image.size)) + data[10:palette] + before + bytes(picture)


def jpeg2000(image: Image.Image, box: bytes) -> bytes:
    """A JPEG 2000 with a box before the others of its header."""
    data = encoded(image, "JPEG2000")
    place = data.index(b"jp2h")
    (length,) = struct.unpack_from(">I", data, place - 4)
    return data[: place - 4] + struct.pack(">I", length + len(box)) + b"jp2h" + box + data[place + 4 :]


def bmp(samples: Samples) -> bytes:
    """A BMP of 32 bits a pixel (blue, green, red, alpha) whose header names an alpha."""
    height, width = samples.shape[:2]
    pixels = samples[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header = (header + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels


def tiff(
    samples: Samples,
    tags: Tags | None = None,
    order: str = "<",
    compression: int = RAW,
    planes: bool = False,
) -> bytes:
    """A TIFF of one strip, or one for each plane: grey or RGB of any type of sample, unless `tags` say otherwise."""
    height, width, bands = samples.shape if samples.ndim == 3 else (*samples.shape, 1)
    stored = samples.astype(samples.dtype.newbyteorder(order))
    strips = (
        [np.ascontiguousarray(stored[..., band]).tobytes() for band in range(bands)] if planes else [stored.tobytes()]
    )
    strips = [zlib.compress(strip) for strip in strips] if compression == DEFLATE else strips
    starts = [8 + sum(map(len, strips[:place])) for place in range(len(strips))]
    everything: Tags = {
        **{
            256: (4, [width]),
            257: (4, [height]),
            258: (3, [samples.dtype.itemsize * 8] * bands),
            259: (3, [compression]),
        },
        **{262: (3, [2 if bands >= 3 else 1]), 273: (4, starts), 277: (3, [bands]), 278: (4, [height])},
        **{279: (4, [len(strip) for strip in strips]), 284: (3, [2 if planes else 1])},
        339: (3, [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * bands),
        **(tags or {}),
    }
    start = 8 + sum(map(len, strips))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + b"".join(strips) + _directory(order, everything, start)


def big_tiff(image: Image.Image, order: str, compression: int = RAW) -> bytes:
    """A BigTIFF of an RGB image, to be turned by orientation 8, with resolutions of text."""
    pixels = np.asarray(image).tobytes()
    pixels = zlib.compress(pixels) if compression == DEFLATE else pixels
    entries = [(256, 4, image.width), (257, 4, image.height), (258, 3, 8, 8, 8), (259, 3, compression), (262, 3, 2)]
    entries += [
        (273, 16, 16),
        (274, 3, 8),
        (277, 3, 3),
        (279, 16, len(pixels)),
        (282, 2, *b"much"),
        (283, 2, *b"more"),
        (296, 3, 3),
    ]
    directory = b"".join(
        struct.pack(order + "HHQ", tag, kind, len(values))
        + struct.pack(order + {2: "B", 3: "H", 4: "I", 16: "Q"}[kind] * len(values), *values).ljust(8, b"\0")
        for tag, kind, *values in entries
    )
    head = (b"II+\0" if order == "<" else b"MM\0+") + struct.pack(order + "HHQ", 8, 0, 16 + len(pixels))
    return head + pixels + struct.pack(order + "Q", len(entries)) + directory + struct.pack(order + "Q", 0)


def _directory(order: str, tags: Tags, start: int) -> bytes:
    entries, values = b"", b""
    kept = {tag: entry for tag, entry in sorted(tags.items()) if entry}
    for tag, (kind, value) in kept.items():
        body = value if isinstance(value, bytes) else struct.pack(order + _TYPES[kind] * len(value), *value)
        count = len(value) // (2 if kind == 5 else 1)
        place = struct.pack(order + "I", start + 2 + 12 * len(kept) + 4 + len(values))
        entries += struct.pack(order + "HHI", tag, kind, count) + (body.ljust(4, b"\0") if len(body) <= 4 else place)
        values += body if len(body) > 4 else b""
    return struct.pack(order + "H", len(kept)) + entries + struct.pack(order + "I", 0) + values
