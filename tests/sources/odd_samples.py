"""Images of every kind of samples, and files of several pictures: what is seen of them, or why they are refused."""

import struct
from typing import Any

import numpy as np
from PIL import Image

from tests.sources import odd
from tests.sources.odd import (
    BLACK,
    CANNOT,
    DEFLATE,
    GREY,
    HEIGHT,
    PICTURE,
    RAW,
    RED,
    SIZE,
    TONES,
    WHITE,
    WIDTH,
    Maker,
    animated,
    chunk,
    colours,
    damaged,
    encoded,
    file,
    levels,
    picture,
)

MIDDLE = levels(128 * 257, 65535, np.uint16)
TILE: odd.Tags = {256: (4, [WIDTH]), 273: None, 278: None, 279: None, 322: (4, [80]), 323: (4, [HEIGHT]), 324: (4, [8])}
TILE |= {325: (4, [80 * HEIGHT * 3])}
FLOATS = levels(128 / 255, 1, np.float32)
RGB_16 = colours(RED, np.uint16) * np.uint16(257)
INK = colours((0, 255, 255, 0))
DARK = "nearly black: its brightest value is"

SAMPLES: dict[str, tuple[Maker, Any]] = {
    "16-bit grey, middle": (file("x.png", lambda: encoded(Image.fromarray(MIDDLE), "PNG")), TONES),
    "16-bit grey with a transparent level": (
        file("x.png", lambda: odd.raw_png(MIDDLE, WIDTH, 16, 0, chunk(b"tRNS", struct.pack(">H", 128 * 257)))),
        (SIZE, WHITE, WHITE),
    ),
    "16-bit grey with alpha": (
        file("x.png", lambda: odd.raw_png(colours((128 * 257, 65535), np.uint16), WIDTH, 16, 4)),
        (SIZE, GREY),
    ),
    "16-bit RGB": (file("x.png", lambda: odd.raw_png(RGB_16, WIDTH, 16, 2)), (SIZE, RED)),
    "16-bit RGBA": (
        file("x.png", lambda: odd.raw_png(colours((65535, 0, 0, 0), np.uint16), WIDTH, 16, 6)),
        (SIZE, WHITE),
    ),
    "16-bit RGB with a transparent colour": (
        file("x.png", lambda: odd.raw_png(RGB_16, WIDTH, 16, 2, chunk(b"tRNS", struct.pack(">3H", 65535, 0, 0)))),
        "^one of its 16-bit colours stands for transparent: convert it to 8 bits$",
    ),
    **{
        f"{depth}-bit grey with a transparent level": (
            file(
                "x.png",
                odd.raw_png(
                    np.full((HEIGHT, WIDTH * depth // 8), 0x55 if depth == 2 else 0x11, np.uint8),
                    WIDTH,
                    depth,
                    0,
                    chunk(b"tRNS", struct.pack(">H", 0x11 if depth == 8 else 1)),
                ),
            ),
            (SIZE, WHITE),
        )
        for depth in (2, 4, 8)
    },
    "RGB with a transparent colour": (
        file("x.png", lambda: odd.raw_png(colours(RED), WIDTH, 8, 2, chunk(b"tRNS", struct.pack(">3H", *RED)))),
        (SIZE, WHITE),
    ),
    "palette with more levels of transparency than colours": (
        file(
            "x.png",
            lambda: odd.raw_png(
                levels(0, 0, np.uint8), WIDTH, 8, 3, chunk(b"PLTE", bytes(RED)) + chunk(b"tRNS", b"\0" * 300)
            ),
        ),
        (SIZE, RED),
    ),
    "palette with half transparency": (
        file(
            "x.png",
            lambda: odd.raw_png(
                levels(0, 0, np.uint8), WIDTH, 8, 3, chunk(b"PLTE", b"\0\0\0") + chunk(b"tRNS", b"\x7f")
            ),
        ),
        (SIZE, GREY),
    ),
    "palette image without its palette": (
        file("x.png", lambda: odd.raw_png(levels(0, 0, np.uint8), WIDTH, 8, 3)),
        "^cannot be decoded: its palette is missing$",
    ),
    "12 bits in 16, grey": (
        file("x.png", lambda: encoded(Image.fromarray(levels(2048, 4095, np.uint16)), "PNG")),
        f"^{DARK} 4095 of 65535: scale its values up to that$",
    ),
    "12 bits in 16, RGB": (
        file("x.png", lambda: odd.raw_png(colours((4095, 2000, 9), np.uint16), WIDTH, 16, 2)),
        f"^{DARK} 15 of 255",
    ),
    "black in 16 bits": (
        file("x.png", lambda: encoded(Image.fromarray(levels(0, 0, np.uint16)), "PNG")),
        (SIZE, BLACK),
    ),
    "LA": (file("x.png", lambda: encoded(Image.new("LA", SIZE, (0, 127)), "PNG")), (SIZE, GREY)),
    **{
        f"TIFF of {name}{', big-endian' if order == '>' else ''}{', compressed' if how == DEFLATE else ''}": (
            file("x.tif", odd.tiff(samples, None, order, how)),
            TONES,
        )
        for name, samples in {
            "16-bit grey": MIDDLE,
            "float up to 1": FLOATS,
            "float up to 255": levels(128, 255, np.float32),
            "float up to 65535": levels(128 * 257, 65535, np.float32),
            "signed 16-bit grey up to 255": levels(128, 255, np.int16),
            "signed 16-bit grey up to 32767": levels(16448, 32767, np.int16),
            "signed 32-bit grey up to 255": levels(128, 255, np.int32),
            "signed 32-bit grey up to 65535": levels(128 * 257, 65535, np.int32),
        }.items()
        for order in "<>"
        for how in (RAW, DEFLATE)
    },
    "TIFF of 32-bit grey up to 255": (file("x.tif", lambda: odd.tiff(levels(128, 255, np.uint32))), TONES),
    "TIFF of 12-bit grey": (
        file(
            "x.tif",
            lambda: odd.tiff(np.full((HEIGHT, WIDTH * 3 // 2), 0xFF, np.uint8), {256: (4, [WIDTH]), 258: (3, [12])}),
        ),
        (SIZE, WHITE),
    ),
    **{
        f"TIFF of {name} where 0 is white": (
            file("x.tif", odd.tiff(samples, {262: (3, [0])})),
            (SIZE, BLACK, WHITE),
        )
        for name, samples in {
            "8-bit grey": levels(255, 0, np.uint8),
            "16-bit grey": levels(65535, 0, np.uint16),
            "float": levels(1, 0, np.float32),
        }.items()
    },
    **{
        f"TIFF of {name}": (file("x.tif", odd.tiff(samples)), reason)
        for name, samples, reason in (
            (
                "negative float",
                levels(-1, 1, np.float32),
                "^values from -1 to 1 have no known black and white: convert it",
            ),
            ("float that is no number", levels(np.nan, 1, np.float32), "^values from nan to nan have no known"),
            ("infinite float", levels(0, np.inf, np.float32), "^values from 0 to inf have no known black and white"),
            ("float up to 70,000", levels(0, 70_000, np.float32), "^values from 0 to 70000 have no known"),
            ("float a little over 1", levels(0.5, 1.5, np.float32), f"^{DARK} 1.5 of 255"),
            ("negative 16-bit grey", levels(-1000, 2000, np.int16), "^values from -1000 to 2000 have no known"),
            ("32-bit grey up to 2 billion", levels(0, 2e9, np.int32), r"^values from 0 to 2e\+09 have no known"),
            (
                "32-bit grey up to 4 billion",
                levels(0, 4e9, np.uint32),
                "^values from -.* have no known black and white",
            ),
            ("32-bit masks of 0 and 1", levels(1, 0, np.int32), f"^{DARK} 1 of 255"),
            ("64-bit float", levels(0, 1, np.float64), CANNOT),
            ("16-bit float", levels(0, 1, np.float16), CANNOT),
            ("64-bit integers", levels(0, 1, np.int64), CANNOT),
            ("float RGB", colours(RED, np.float32), CANNOT),
            ("signed 8-bit grey", levels(0, -1, np.int8), "^a TIFF of signed 8-bit samples: convert it to 8-bit RGB$"),
        )
    },
    "TIFF of 16-bit RGB": (file("x.tif", lambda: odd.tiff(RGB_16)), (SIZE, RED)),
    "TIFF of 16-bit RGB in planes": (
        file("x.tif", lambda: odd.tiff(RGB_16, planes=True)),
        "^a TIFF with planes of more",
    ),
    "TIFF of compressed 16-bit RGB in planes": (
        file("x.tif", lambda: odd.tiff(RGB_16, compression=DEFLATE, planes=True)),
        (SIZE, RED),
    ),
    "TIFF of RGB in planes": (file("x.tif", lambda: odd.tiff(colours(RED), planes=True)), (SIZE, RED)),
    "TIFF of CMYK": (file("x.tif", lambda: odd.tiff(INK, {262: (3, [5])})), (SIZE, RED)),
    "TIFF of CMYK in planes": (file("x.tif", lambda: odd.tiff(INK, {262: (3, [5])}, planes=True)), (SIZE, RED)),
    "TIFF of 16-bit CMYK": (
        file("x.tif", lambda: odd.tiff(INK.astype(np.uint16) * np.uint16(257), {262: (3, [5])})),
        (SIZE, RED),
    ),
    "TIFF of CIELAB": (file("x.tif", lambda: odd.tiff(colours((138, 81, 70)), {262: (3, [8])})), (SIZE, RED)),
    "TIFF of CIELAB in planes": (
        file("x.tif", lambda: odd.tiff(colours((138, 81, 70)), {262: (3, [8])}, planes=True)),
        "^a TIFF with planes of LAB: convert",
    ),
    "TIFF of YCbCr": (
        file("x.tif", lambda: odd.tiff(colours((76, 85, 255)), {262: (3, [6]), 530: (3, [1, 1])})),
        (SIZE, RED),
    ),
    "TIFF of subsampled YCbCr": (
        file("x.tif", lambda: odd.tiff(colours((76, 85, 255)), {262: (3, [6]), 530: (3, [2, 2])})),
        "^a TIFF of subsampled YCbCr: convert it to 8-bit RGB$",
    ),
    "TIFF of YCbCr as JPEG": (
        file("x.tif", lambda: encoded(picture(), "TIFF", compression="jpeg", quality=95)),
        PICTURE,
    ),
    "TIFF of RGBA": (file("x.tif", lambda: odd.tiff(colours((*RED, 0)), {338: (3, [2])})), (SIZE, WHITE)),
    "TIFF of premultiplied RGBA": (
        file("x.tif", lambda: odd.tiff(colours((127, 0, 0, 127)), {338: (3, [1])})),
        (SIZE, (255, 128, 128)),
    ),
    "TIFF of RGB and something else": (
        file("x.tif", lambda: odd.tiff(colours((*RED, 0)), {338: (3, [0])})),
        (SIZE, RED),
    ),
    "TIFF of premultiplied grey": (
        file("x.tif", lambda: odd.tiff(colours((0, 127)), {262: (3, [1]), 338: (3, [1])})),
        (SIZE, GREY),
    ),
    "TIFF of grey with alpha in planes": (
        file("x.tif", lambda: odd.tiff(colours((0, 127)), {262: (3, [1]), 338: (3, [2])}, "<", DEFLATE, planes=True)),
        "^a TIFF with planes of LA: convert",
    ),
    **{
        f"TIFF with a palette of {bits} bits": (
            file(
                "x.tif",
                odd.tiff(
                    levels(1, 0, np.uint8), {262: (3, [3]), 320: (3, [top if at == 1 else 0 for at in range(768)])}
                ),
            ),
            (SIZE, RED),
        )
        for bits, top in ((16, 65535), (8, 255))
    },
    "TIFF that says nothing of black": (
        file("x.tif", lambda: odd.tiff(levels(0, 255, np.uint8), {262: None})),
        "^a TIFF that does not say whether 0 is black or white: convert it to 8-bit RGB$",
    ),
    "PGM up to 65535": (file("x.pgm", lambda: b"P5 %d %d 65535\n" % SIZE + MIDDLE.byteswap().tobytes()), TONES),
    "PGM up to 1023": (
        file("x.pgm", lambda: b"P5 %d %d 1023\n" % SIZE + levels(513, 1023, np.uint16).byteswap().tobytes()),
        TONES,
    ),
    "PPM up to 65535": (file("x.ppm", lambda: b"P6 %d %d 65535\n" % SIZE + RGB_16.byteswap().tobytes()), (SIZE, RED)),
    "PFM": (file("x.pfm", lambda: b"Pf %d %d -1.0\n" % SIZE + FLOATS[::-1].tobytes()), TONES),
    "PFM, big-endian": (
        file("x.pfm", lambda: b"Pf %d %d 1.0\n" % SIZE + FLOATS[::-1].byteswap().tobytes()),
        TONES,
    ),
    "PFM of RGB": (file("x.pfm", lambda: b"PF %d %d -1.0\n" % SIZE + FLOATS.repeat(3, 1).tobytes()), "^not an image$"),
    "BMP with an alpha of 0": (file("x.bmp", lambda: odd.bmp(colours((0, 0, 255, 0)))), (SIZE, RED)),
    "BMP with an alpha": (file("x.bmp", lambda: odd.bmp(colours((0, 0, 0, 127)))), (SIZE, GREY)),
    "JPEG 2000 of 16-bit grey": (file("x.jp2", lambda: encoded(Image.fromarray(MIDDLE), "JPEG2000")), TONES),
    "JPEG of 12 bits": (file("x.jpg", lambda: damaged(odd.jpeg(picture()), b"\xff\xc0", 4, b"\x0c")), CANNOT),
    "CMYK without Adobe's marker": (
        file(
            "x.jpg",
            lambda: damaged(
                encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG", quality=95),
                b"\xff\xee\0\x0eAdobe",
                0,
                b"\xff\xeb\0\x0eOther",
            ),
        ),
        (SIZE, RED),
    ),
}
SEVERAL: dict[str, tuple[Maker, Any]] = {
    "animated PNG": (file("x.png", lambda: animated("PNG")), PICTURE),
    "animated AVIF": (file("x.avif", lambda: animated("AVIF", quality=95)), PICTURE),
    "TIFF of two pages": (file("x.tif", lambda: animated("TIFF")), PICTURE),
    "TIFF of tiles": (file("x.tif", lambda: odd.tiff(np.asarray(picture(width=80)), TILE)), PICTURE),
    "TIFF that begins with a preview": (
        file("x.tif", lambda: odd.tiff(colours(RED), {254: (4, [1])})),
        "^a TIFF whose first picture is a preview only: convert it to 8-bit RGB$",
    ),
    "JPEG of two pictures": (file("x.jpg", lambda: animated("MPO", quality=95)), PICTURE),
    "GIF whose first picture covers a part": (
        file("x.gif", lambda: odd.gif(picture(), canvas=(2 * WIDTH, 2 * HEIGHT), at=9)),
        ((2 * WIDTH, 2 * HEIGHT), WHITE, WHITE),
    ),
    "GIF whose first picture is larger": (file("x.gif", lambda: odd.gif(picture(), canvas=(9, 9))), PICTURE),
    "GIF whose first picture is far away": (
        file("x.gif", lambda: odd.gif(picture(), at=60_000)),
        "^more than 100000000 pixels$",
    ),
}
