"""Image files without what their pixels do not need, so that no metadata, however odd or huge, can cost an image."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

Turns = dict[str, bytes | str]
"""What may say which side is up, under the names that it has in Pillow's `Image.info`."""

_PNG_ALWAYS = (b"IHDR", b"IDAT", b"IEND")
# By the type of colour that the header names: what else its pixels need, and of which lengths it is.
_PNG_COLOURS: dict[int, dict[bytes, Sequence[int]]] = {
    0: {b"tRNS": (2,)},
    2: {b"tRNS": (6,)},
    3: {b"PLTE": range(3, 3 * 256 + 1, 3), b"tRNS": range(1, 257)},
}
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_TURNS = {b"XML:com.adobe.xmp": "xmp", b"Raw profile type exif": "Raw profile type exif"}
_LONGEST_TEXT = 1 << 20
_JPEG_EXIF, _JPEG_XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_COLOURS = {0xE0: (b"JFIF", 14), 0xEE: (b"Adobe", 12)}
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
# Sizes, layout, compression, colours and orientation, by the numbers of TIFF 6 and its supplements.
_TIFF_PIXELS = {254, *range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320}
_TIFF_PIXELS |= {*range(322, 326), 332, 338, 339, 347, *range(512, 522), *range(529, 533), 50674}


def split(data: bytes) -> tuple[bytes, Turns]:
    """Takes texts, profiles, previews, animations and unknown parts out of an image file.

    Args:
        data: A file of any kind. One of another format, or too damaged to be followed, stays as it is.

    Returns:
        A file of the same first picture, and what of the rest may say its orientation, if that is not in the file.
    """
    for start, rewrite in _FORMATS.items():
        if re.match(start, data, re.DOTALL):
            turns: Turns = {}
            with suppress(IndexError, ValueError, struct.error):
                return rewrite(data, turns), turns
    return data, {}


def _joined(data: bytes, kept: list[memoryview]) -> bytes:
    """Joins parts of `data`, which are nearly always all there are."""
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


def _png(data: bytes, turns: Turns) -> bytes:
    needs, kept = _PNG_COLOURS.get(data[25], {}), [memoryview(data)[:8]]
    for kind, chunk in _png_chunks(data):
        body = chunk[8:-4]
        if kind == b"IDAT":
            needs = {}  # what comes behind is too late for them
        if kind in _PNG_ALWAYS or (len(body) in needs.get(kind, ()) and (kind == b"PLTE" or _sound(chunk))):
            kept.append(chunk)
        elif kind == b"eXIf" and _sound(chunk):
            turns["exif"] = _JPEG_EXIF + body
        elif kind in _PNG_TEXTS:
            with suppress(IndexError, ValueError, zlib.error):
                _png_text(kind, body, turns)
    return _joined(data, kept)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, place, kind = memoryview(data), 8, b""
    while place + 8 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, view[place : place + 12 + length]
        place += 12 + length


def _sound(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _png_text(kind: bytes, body: memoryview, turns: Turns) -> None:
    name = bytes(body[:80]).partition(b"\0")[0]  # no longer one is allowed
    turn = _PNG_TURNS.get(name)
    if turn is None or turn in turns:
        return
    turns[turn] = ""  # of several the first counts, even if damaged: thousands would take minutes to decompress
    text = bytes(body[len(name) + 1 :])
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed, text = text[0] == 1, text[2:].split(b"\0", 2)[2]
    elif compressed:
        text = text[1:]
    if compressed:
        text = zlib.decompressobj().decompress(text, _LONGEST_TEXT)
    turns[turn] = text if turn == "xmp" else text.decode("latin-1")


def _jpeg(data: bytes, turns: Turns) -> bytes:
    view, exif = memoryview(data), list[bytes]()
    kept = [view[:2]]
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : end] if 0xE0 <= marker <= 0xEF else b""
        if marker == 0xE1 and body.startswith(_JPEG_EXIF):
            exif.append(body.removeprefix(_JPEG_EXIF))
        elif marker == 0xE1 and body.startswith(_JPEG_XMP):
            turns["xmp"] = body.removeprefix(_JPEG_XMP)
        if marker in _JPEG_COLOURS:
            name, length = _JPEG_COLOURS[marker]
            needed = body.startswith(name) and len(body) >= length  # libjpeg passes over shorter ones, too
        else:
            needed = not 0xE0 <= marker <= 0xEF and marker != 0xFE
        if needed:
            kept.append(view[start:end])
    if exif:
        turns["exif"] = _JPEG_EXIF + b"".join(exif)
    return _joined(data, kept)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields the marker, start and end of each segment before the scan, and of all that follows as one."""
    place = 2
    while True:
        place = data.index(b"\xff", place)
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        if marker in (0xD8, 0xD9, 0xDA):
            yield marker, place - 1, len(data)
            return
        if marker in (0, 1, *range(0xD0, 0xD8)):  # without a length
            continue
        (length,) = struct.unpack_from(">H", data, place + 1)
        end = place + 1 + max(2, length)
        yield marker, place - 1, end
        place = end


def _webp(data: bytes, turns: Turns) -> bytes:
    view, place = memoryview(data), 12
    kept: list[bytes | memoryview] = [b"WEBP"]
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        end = place + 8 + length
        if kind in _WEBP_PIXELS:
            kept.append(view[place : end + length % 2])
        elif kind in (b"EXIF", b"XMP "):
            turns[kind.decode().strip().lower()] = data[place + 8 : end]
        place = end + length % 2
    body = b"".join(kept)
    body += b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(data: bytes, _: Turns) -> bytes:
    view, flags = memoryview(data), data[10]
    place = 13 + (6 << (flags & 7) if flags & 128 else 0)
    kept = [view[:place]]
    while data[place] not in b",;":
        start = place
        place += 1
        if data[start] != 0x21:  # not an extension: junk between blocks
            continue
        place += 1
        while data[place]:
            place += data[place] + 1
        place += 1
        if data[start + 1] == 0xF9 and data[start + 2] >= 4:  # the transparent colour
            kept.append(view[start:place])
    return b"".join([*kept, view[place:]])


def _tiff(data: bytes, _: Turns) -> bytes:
    """Shortens the first directory where it is: what it points at stays in its place."""
    big = data[2:4] == b"+\0"
    order = "<" if data[:2] == b"II" else ">"
    number, count_type, size = ("Q", "Q", 20) if big else ("L", "H", 12)
    (start,) = struct.unpack_from(order + number, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_type, data, start)
    first = start + struct.calcsize(order + count_type)
    entries = (data[at : at + size] for at in range(first, min(first + count * size, len(data)), size))
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_PIXELS]
    directory = b"".join([struct.pack(order + count_type, len(kept)), *kept, struct.pack(order + number, 0)])
    end = start + len(directory)
    return data if data[start:end] == directory else b"".join([data[:start], directory, data[end:]])


def _jpeg2000(data: bytes, _: Turns) -> bytes:
    header, mark, pixels = data.partition(b"jp2c")
    return header.replace(b"res ", b"free") + mark + pixels


def _avif(data: bytes, _: Turns) -> bytes:
    """Renames the EXIF item, which readers then pass over; the orientation is a property of the picture."""
    return re.sub(rb"(infe\x02.{7}|infe\x03.{9})Exif", rb"\1free", data, flags=re.DOTALL)


# Pillow parses these parts while it opens a file, where it can be told neither to pass over them nor over their errors.
# It reads no big-endian BigTIFF (MM, 0, +).
_FORMATS: dict[bytes, Callable[[bytes, Turns], bytes]] = {
    rb"\x89PNG\r\n\x1a\n": _png,
    rb"\xff\xd8\xff": _jpeg,
    rb"RIFF.{4}WEBP": _webp,
    rb"GIF8[79]a": _gif,
    rb"II\*\0|MM\0\*|II\+\0": _tiff,
    rb"\0\0\0\x0cjP  \r\n\x87\n": _jpeg2000,
    rb".{4}ftyp": _avif,
}
