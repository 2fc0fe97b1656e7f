"""Images with metadata of every kind and in every state, none of which costs the picture."""

import struct
import zlib
from typing import Any

import numpy as np

from tests.sources import odd
from tests.sources.odd import (
    CANNOT,
    DEFLATE,
    NOISE,
    PICTURE,
    RAW,
    RED,
    TURNED,
    Maker,
    chunk,
    damaged,
    encoded,
    file,
    picture,
    segment,
)

BOMB = zlib.compress(b"a" * (3 << 20))
TURN: odd.Tags = {274: (3, [8])}
EXIF = b"Exif\0\0" + odd.exif(TURN)
XMP = b'<x:xmpmeta tiff:Orientation="8"/>'
XMP_CHUNK = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
# Its tags lie behind what one segment of a JPEG can hold.
_LONG = b"II*\0" + struct.pack("<I", 70_000) + b"\0" * (70_000 - 8) + odd.exif(TURN)[8:]
LONG_EXIF = [segment(0xE1, b"Exif\0\0" + part) for part in (_LONG[:60_000], _LONG[60_000:])]
PROFILE = b"\nexif\n" + b"%8d\n" % len(EXIF) + EXIF.hex().encode()
ANIMATION = chunk(b"acTL", struct.pack(">II", 2, 0))
FRAME = struct.pack(">IIIIIHHBB", 0, 9, 9, 0, 0, 1, 1, 0, 0)

PNG_CHUNKS = {
    "3 MiB of compressed text": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "3 MiB of compressed Unicode": chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
    "3 MiB of compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "3 MiB of compressed colour profile": chunk(b"iCCP", b"x\0\0" + BOMB),
    "99 compressed texts of 1 MB": 99 * chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 1_000_000)),
    "1 MiB of text": chunk(b"tEXt", b"Comment\0" + b"a" * (1 << 20)),
    "an empty text": chunk(b"tEXt", b""),
    "a text compressed in an unknown way": chunk(b"zTXt", b"Comment\0\1x"),
    "a colour profile of garbage": chunk(b"iCCP", b"x\0\0" + NOISE),
    "a colour profile compressed in an unknown way": chunk(b"iCCP", b"x\0\1x"),
    "an empty colour profile": chunk(b"iCCP", b""),
    "EXIF of garbage": chunk(b"eXIf", NOISE),
    "empty EXIF": chunk(b"eXIf", b""),
    "EXIF with a wrong checksum": chunk(b"eXIf", EXIF[6:], checksum=1),
    "EXIF of garbage as text": chunk(b"tEXt", b"Raw profile type exif\0" + NOISE),
    "XMP of garbage": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + NOISE),
    "a text with a wrong checksum": chunk(b"tEXt", b"Comment\0a", checksum=1),
    "an unknown chunk": chunk(b"abCd", NOISE),
    "an unknown chunk not in letters": chunk(b"a\xe9C1", NOISE),
    "an unknown critical chunk": chunk(b"ABCD", NOISE),
    **{
        f"a text called {name}": chunk(b"tEXt", name.encode() + b"\0" + b"1")
        for name in ("interlace", "transparency", "bbox", "exif", "xmp", "icc_profile", "default_image")
    },
    **{
        f"{'a long' if length else 'an empty'} {kind}": chunk(kind.encode(), b"\x01" * length)
        for kind in ("tRNS", "gAMA", "cHRM", "sRGB", "sBIT", "bKGD", "pHYs", "tIME", "hIST", "sPLT", "acTL", "fcTL")
        for length in (0, 99)
    },
    "a transparent colour with a wrong checksum": chunk(b"tRNS", struct.pack(">3H", *RED), checksum=1),
    "a suggested palette with a wrong checksum": chunk(b"PLTE", b"abc", checksum=1),
    "frames out of order": ANIMATION + 2 * chunk(b"fcTL", struct.pack(">I", 5) + FRAME[4:]),
    "a first frame smaller than the picture": ANIMATION + chunk(b"fcTL", FRAME),
}
JPEG_SEGMENTS = {
    "EXIF of garbage": segment(0xE1, b"Exif\0\0" + NOISE),
    "300 KB of EXIF": 5 * segment(0xE1, b"Exif\0\0" + b"II*\0" + b"\xff" * 60_000),
    "empty EXIF": segment(0xE1, b"Exif\0\0"),
    "truncated EXIF": segment(0xE1, EXIF[:20]),
    "EXIF that points past its end": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "EXIF with orientation 0": segment(0xE1, b"Exif\0\0" + odd.exif({274: (3, [0])})),
    "EXIF with orientation 99": segment(0xE1, b"Exif\0\0" + odd.exif({274: (3, [99])})),
    "EXIF with an orientation of text": segment(0xE1, b"Exif\0\0" + odd.exif({274: (2, b"8\0")})),
    "EXIF with an orientation of 9 bytes": segment(0xE1, b"Exif\0\0" + odd.exif({274: (7, b"8" * 9)})),
    "XMP of garbage": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + NOISE),
    "parts of two colour profiles": 2 * segment(0xE2, b"ICC_PROFILE\0\1\5" + NOISE),
    "a colour profile without a part": segment(0xE2, b"ICC_PROFILE\0"),
    "an index of pictures of garbage": segment(0xE2, b"MPF\0" + NOISE),
    "an index of 2 pictures and none": segment(0xE2, b"MPF\0" + odd.exif({0xB001: (4, [2]), 0xB002: (7, b"abcd")})),
    "an index of a billion pictures": segment(0xE2, b"MPF\0" + odd.exif({0xB001: (4, [1 << 30]), 0xB002: (7, b"a")})),
    "Photoshop's garbage": segment(0xED, b"Photoshop 3.0\0" + b"8BIM" + NOISE),
    "Photoshop's data, truncated": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1"),
    "a short JFIF header": segment(0xE0, b"JFIF\0"),
    "a short Adobe marker": segment(0xEE, b"Adobe"),
    "an Adobe marker of an unknown transform": segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09"),
    "comments of 64 KiB": 9 * segment(0xFE, b"a" * 65_533),
    "an empty comment": segment(0xFE, b""),
    "a segment of no length": b"\xff\xe5\0\0",
    "an unknown application's segment": segment(0xEB, NOISE),
    "padding and a lone marker": b"\xff\xff\xff\x01\xff\0",
    "junk between segments": segment(0xE5, b"") + b"junk\0",
}
WEBP_EXTRAS = {
    "EXIF of garbage": [(b"EXIF", NOISE)],
    "empty EXIF": [(b"EXIF", b"")],
    "XMP of garbage": [(b"XMP ", NOISE)],
    "a colour profile of garbage": [(b"ICCP", NOISE)],
    "an unknown chunk": [(b"abcd", NOISE)],
}
GIF_BLOCKS = {
    "an empty application's extension": b"!\xff\0",
    "an application's extension with a short name": b"!\xff\3abc\0",
    "a loop without a count": b"!\xff\x0bNETSCAPE2.0\0",
    "XMP of garbage": b"!\xff\x0bXMP DataXMP" + b"\xff" + NOISE[:255] + b"\0",
    "an empty comment": b"!\xfe\0",
    "a comment of 1 MiB": b"!\xfe" + 4096 * (b"\xff" + b"a" * 255) + b"\0",
    "an empty text": b"!\x01\0",
    "an unknown extension": b"!\x77\0",
    "a short control block": b"!\xf9\1\1\0",
    "junk between blocks": b"\0\0\x01",
}
TIFF_TAGS: dict[str, odd.Tags] = {
    "XMP as text": {700: (2, b"<x/>" * 9)},
    "XMP as numbers": {700: (4, [6, 7, 8])},
    "a resolution of text": {282: (2, b"much"), 283: (2, b"more"), 296: (3, [3])},
    "EXIF past the end": {34665: (4, [1 << 30]), 34853: (4, [3])},
    "a colour profile of garbage": {34675: (7, NOISE)},
    "Photoshop's garbage": {34377: (7, NOISE), 33723: (4, [5])},
    "an orientation of text": {274: (2, b"8\0")},
    "orientation 9": {274: (3, [9])},
    "a kind of picture of text": {254: (2, b"hello")},
    "an unknown tag": {65_000: (7, NOISE)},
    "a tag of an unknown type": {65_000: (99, NOISE)},
}
METADATA: dict[str, tuple[Maker, Any]] = {
    **{
        f"PNG with {name} {where} its pixels": (
            file("x.png", odd.png(picture(), **{where: part})),
            PICTURE,
        )
        for name, part in PNG_CHUNKS.items()
        for where in ("before", "behind")
    },
    "PNG cut in the text behind its pixels": (
        file("x.png", lambda: odd.png(picture(), behind=chunk(b"tEXt", b"Comment\0" + NOISE))[:-100]),
        PICTURE,
    ),
    "PNG with bytes behind": (file("x.png", lambda: odd.png(picture()) + NOISE), PICTURE),
    "PNG with EXIF": (file("x.png", lambda: odd.png(picture(), chunk(b"eXIf", EXIF[6:]))), TURNED),
    "PNG with EXIF behind its pixels": (
        file("x.png", lambda: odd.png(picture(), behind=chunk(b"eXIf", EXIF[6:]))),
        TURNED,
    ),
    "PNG with EXIF between its pixels": (
        file("x.png", lambda: odd.png(picture(), b"", chunk(b"eXIf", EXIF[6:]) + chunk(b"IDAT", b""))),
        TURNED,
    ),
    "PNG with a transparent colour too late, behind its pixels": (
        file("x.png", lambda: odd.png(picture(), behind=chunk(b"tRNS", struct.pack(">3H", *RED)))),
        PICTURE,
    ),
    "PNG with XMP of which the second says otherwise": (
        file("x.png", lambda: odd.png(picture(), XMP_CHUNK + XMP_CHUNK.replace(b'"8"', b'"1"'))),
        TURNED,
    ),
    "PNG with EXIF as compressed text": (
        file(
            "x.png", lambda: odd.png(picture(), chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)))
        ),
        TURNED,
    ),
    "PNG with XMP": (
        file("x.png", lambda: odd.png(picture(), XMP_CHUNK)),
        TURNED,
    ),
    "PNG with compressed XMP": (
        file("x.png", lambda: odd.png(picture(), chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)))),
        TURNED,
    ),
    "PNG with EXIF beside 3 MiB of text": (
        file("x.png", lambda: odd.png(picture(), chunk(b"zTXt", b"Comment\0\0" + BOMB) + chunk(b"eXIf", EXIF[6:]))),
        TURNED,
    ),
    **{
        f"JPEG with {name}": (file("x.jpg", odd.jpeg(picture(), part)), PICTURE) for name, part in JPEG_SEGMENTS.items()
    },
    **{
        f"JPEG with an orientation stored as {name}": (
            file("x.jpg", odd.jpeg(picture(), segment(0xE1, b"Exif\0\0" + odd.exif({274: tag})))),
            TURNED,
        )
        for name, tag in {
            "a long": (4, [8]),
            "two": (3, [8, 1]),
            "a fraction": (5, [16, 2]),
            "a float": (11, [8]),
        }.items()
    },
    "JPEG with EXIF in two segments": (
        file("x.jpg", lambda: odd.jpeg(picture(), *LONG_EXIF)),
        TURNED,
    ),
    "JPEG with EXIF whose resolution is text": (
        file("x.jpg", lambda: odd.jpeg(picture(), segment(0xE1, b"Exif\0\0" + odd.exif({**TURN, 282: (2, b"much")})))),
        TURNED,
    ),
    "JPEG with EXIF beside Photoshop's truncated data": (
        file("x.jpg", lambda: odd.jpeg(picture(), JPEG_SEGMENTS["Photoshop's data, truncated"], segment(0xE1, EXIF))),
        TURNED,
    ),
    "JPEG with XMP": (
        file("x.jpg", lambda: odd.jpeg(picture(), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP))),
        TURNED,
    ),
    "JPEG with bytes before": (file("x.jpg", lambda: b"\r\n" + odd.jpeg(picture())), "not an image"),
    "JPEG with another behind": (file("x.jpg", lambda: 2 * odd.jpeg(picture())), PICTURE),
    "JPEG cut in its metadata": (
        file("x.jpg", lambda: odd.jpeg(picture(), segment(0xFE, NOISE))[:99]),
        "cannot be decoded: Trunc",
    ),
    **{
        f"WebP with {name} {where} its pixels": (
            file(
                "x.webp",
                odd.webp([*extras[:first], *odd.webp_chunks(picture(), exif=b"Exif\0\0"), *extras[first:]]),
            ),
            PICTURE,
        )
        for name, extras in WEBP_EXTRAS.items()
        for where, first in (("behind", 0), ("before", 1))
    },
    "WebP with EXIF": (file("x.webp", lambda: encoded(picture(), "WEBP", lossless=True, exif=EXIF)), TURNED),
    "WebP with XMP": (file("x.webp", lambda: encoded(picture(), "WEBP", lossless=True, xmp=XMP)), TURNED),
    "WebP cut in its XMP": (
        file("x.webp", lambda: encoded(picture(), "WEBP", lossless=True, xmp=NOISE)[:-100]),
        PICTURE,
    ),
    **{
        f"WebP that says it is {length} bytes long": (
            file("x.webp", odd.webp(list(odd.webp_chunks(picture())), length)),
            PICTURE,
        )
        for length in (0, 40, 100_000)
    },
    **{f"GIF with {name}": (file("x.gif", odd.gif(picture(), part)), PICTURE) for name, part in GIF_BLOCKS.items()},
    **{
        f"{'compressed ' if compression == DEFLATE else ''}TIFF with {name}": (
            file("x.tif", odd.tiff(np.asarray(picture()), tags, compression=compression)),
            PICTURE,
        )
        for name, tags in TIFF_TAGS.items()
        for compression in (RAW, DEFLATE)
    },
    "TIFF with an orientation": (file("x.tif", lambda: odd.tiff(np.asarray(picture()), TURN)), TURNED),
    "TIFF with an orientation beside XMP as text": (
        file("x.tif", lambda: odd.tiff(np.asarray(picture()), {**TURN, **TIFF_TAGS["XMP as text"]})),
        TURNED,
    ),
    **{
        f"{'compressed ' if compression == DEFLATE else ''}BigTIFF, {name}": (
            file("x.tif", odd.big_tiff(picture(), order, compression)),
            outcome,
        )
        for name, order, outcome in (("little-endian", "<", TURNED), ("big-endian", ">", CANNOT))
        for compression in (RAW, DEFLATE)
    },
    "AVIF with an orientation": (file("x.avif", lambda: encoded(picture(), "AVIF", exif=EXIF, quality=95)), TURNED),
    **{
        f"AVIF with {name}": (
            file(
                "x.avif",
                damaged(
                    encoded(picture(), "AVIF", exif=odd.exif({271: (2, b"a maker")}), quality=95), b"II*\0", start, part
                ),
            ),
            PICTURE,
        )
        for name, start, part in (
            ("EXIF of no kind", 0, NOISE[:4]),
            ("EXIF of garbage", 8, NOISE[:20]),
            ("EXIF that begins past its end", -4, b"\xff" * 4),
        )
    },
    **{
        f"JPEG 2000 with {name}": (file("x.jp2", odd.jpeg2000(picture(), box)), PICTURE)
        for name, box in {
            "a resolution of garbage": b"\0\0\0\x0cres junk",
            "an empty resolution": b"\0\0\0\x08res ",
            "an unknown box": b"\0\0\0\x0cabcdjunk",
        }.items()
    },
}
