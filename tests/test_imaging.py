"""What cameras and the web put into image files comes out upright and RGB, or as a reason why not."""

import io
import resource
import struct
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ddps_ray import imaging
from ddps_ray.errors import BadImage
from tests.sources import odd

Pixels = NDArray[np.uint8]

# EXIF: the side of the upright picture on which the file's first row lies, and that of its first column.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def decoded(data: bytes) -> Pixels:
    image = imaging.decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.Make] = "maker"
    return tags


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_the_exif_orientation_is_undone(picture: Pixels, orientation: int, form: str) -> None:
    row_side, column_side = ORIENTATIONS[orientation]
    stored = picture if row_side in ("top", "bottom") else picture.swapaxes(0, 1)
    stored = stored[::-1] if row_side in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column_side in ("bottom", "right") else stored
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif(orientation))
    assert np.array_equal(decoded(data), picture)


def test_odd_exif_tags_do_not_cost_the_picture(picture: Pixels) -> None:
    odd = exif(6).tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")  # the maker's name as an image width
    assert odd != exif(6).tobytes()
    data = encoded(Image.fromarray(picture), "JPEG", exif=odd, quality=95)
    assert imaging.decode(data).size == (20, 30)


@pytest.mark.parametrize(
    ("ink", "rgb"),
    [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 255, 0), (0, 255, 0)), ((0, 0, 0, 155), (100, 100, 100))],
)
def test_cmyk_becomes_rgb(ink: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
    assert np.abs(decoded(data).astype(int) - rgb).max() <= 3


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    levels = np.array([[0, 200, 257, 33000, 65535]], np.uint16)
    pixels = decoded(encoded(Image.fromarray(levels), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 1, 1, 128, 255]  # value / 257, rounded
    assert (pixels == pixels[..., :1]).all()


def test_transparency_lies_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putpixel((1, 0), 1)
    assert decoded(encoded(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [0, 0, 200]]]
    half_black = Image.new("RGBA", (1, 1), (0, 0, 0, 51))
    assert decoded(encoded(half_black, "PNG")).tolist() == [[[204, 204, 204]]]  # 255 · (1 − 51/255)
    grey = Image.new("LA", (1, 1), (10, 0))
    assert decoded(encoded(grey, "PNG")).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_of_an_animation_the_first_frame_counts(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert (decoded(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_half_a_file_is_bad_with_a_reason(picture: Pixels, form: str) -> None:
    data = encoded(Image.fromarray(picture), form)
    with pytest.raises(BadImage, match=r"cannot be decoded: \w+|not an image"):
        imaging.decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty file"), (b"I am a poem, not a picture.\n" * 20, "not an image")]
)
def test_what_is_no_image_is_bad_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=f"^{reason}$"):
        imaging.decode(data)


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_a_giant_is_refused_by_its_header_without_its_memory(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match="more than 100000000 pixels"):
        imaging.decode(b"\x89PNG\r\n\x1a\n" + body)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; its pixels would be 300,000


@pytest.mark.parametrize(
    ("kind", "head", "count", "length"),
    [
        (b"zTXt", b"Comment\0\0", 50, 900_000),
        (b"iTXt", b"Comment\0\1\0\0\0", 50, 900_000),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0", 1, 45_000_000),
        (b"zTXt", b"Raw profile type exif\0\0", 1, 45_000_000),
    ],
)
def test_metadata_takes_no_memory(picture: Pixels, kind: bytes, head: bytes, count: int, length: int) -> None:
    data = odd.png(Image.fromarray(picture), count * odd.chunk(kind, head + zlib.compress(b"a" * length)))
    tracemalloc.start()
    try:
        pixels = decoded(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(pixels, picture)
    assert peak < 10_000_000  # bytes; the texts are 45 million


@pytest.mark.parametrize(
    ("kind", "head"),
    [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"), (b"zTXt", b"Raw profile type exif\0\0")],
)
@pytest.mark.parametrize("cut", [0, 4])
def test_thousands_of_compressed_texts_take_no_time(picture: Pixels, kind: bytes, head: bytes, cut: int) -> None:
    text = zlib.compress(b"a" * 1_000_000)
    text = text[: len(text) - cut] + b"\0" * cut  # its checksum, which only its end can show to be wrong
    data = odd.png(Image.fromarray(picture), 5_000 * odd.chunk(kind, head + text))
    before = time.thread_time()
    pixels = decoded(data)
    assert time.thread_time() - before < 2  # seconds of CPU; to decompress all takes more than 5
    assert np.array_equal(pixels, picture)


def test_what_exceeds_two_of_the_largest_images_waits_for_room(picture: Pixels) -> None:
    def first_row(data: bytes) -> Any:
        return decoded(data)[:1, :2].tolist()[0]

    largest = encoded(Image.new("1", (10_000, 10_000), 1), "PNG")
    larger, small = encoded(Image.new("1", (100, 100), 1), "PNG"), encoded(Image.fromarray(picture), "PNG")
    with ThreadPoolExecutor(2) as threads, ExitStack() as held:
        for _ in range(3):  # cut ones hold nothing afterwards
            with pytest.raises(BadImage, match="cannot be decoded"):
                imaging.decode(largest[:1000])
        for _ in range(2):
            held.enter_context(imaging.ROOM.taken(imaging.MAX_PIXELS - picture.size))
        waiting = threads.submit(first_row, larger)
        assert threads.submit(first_row, small).result(60) == picture[0, :2].tolist()
        assert wait([waiting], 0.5).not_done
        held.close()
        assert waiting.result(60) == [[255, 255, 255]] * 2


def test_a_first_frame_lies_where_the_animation_puts_it() -> None:
    frame = encoded(Image.new("RGB", (3, 2), "red"), "GIF")
    place = frame.index(b",\0\0\0\0")
    canvas = frame[:6] + struct.pack("<HH", 5, 5) + frame[10:place]
    pixels = decoded(canvas + b"," + struct.pack("<HH", 1, 2) + frame[place + 5 :])
    expected = np.full((5, 5, 3), 255)
    expected[2:4, 1:4] = (255, 0, 0)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (100, 100), (1280, 200), (64, 47), (7, 9)])
def test_scaling_keeps_the_ratio_within_half_a_multiple(width: int, height: int) -> None:
    scaled = imaging.scale(Image.new("RGB", (width, height)), size=256, multiple=8, max_aspect=8)
    assert min(scaled.size) == 256
    assert max(scaled.size) % 8 == 0
    assert (scaled.width > scaled.height) == (width > height)
    assert abs(max(scaled.size) - 256 * max(width, height) / min(width, height)) <= 4


def test_a_strip_is_bad_beyond_the_limit_only() -> None:
    assert imaging.scale(Image.new("RGB", (80, 10)), 32, 8, max_aspect=8).size == (256, 32)
    for size in ((81, 10), (10, 81)):
        with pytest.raises(BadImage, match=r"^aspect ratio 8\.1 is over 8$"):
            imaging.scale(Image.new("RGB", size), 32, 8, max_aspect=8)


def test_a_crop_is_these_pixels_and_of_this_size(picture: Pixels) -> None:
    cut = imaging.crop(Image.fromarray(picture), (5, 3, 12, 12), 12)
    assert np.array_equal(np.asarray(cut), picture[3:15, 5:17])
    assert imaging.crop(Image.fromarray(picture), (5, 3, 12, 12), 6).size == (6, 6)


def test_real_photographs_decode(shared: Path) -> None:
    files = sorted((shared / "imagenet-samples").rglob("*.JPEG"))[::10]
    sizes = [imaging.decode(file.read_bytes()).size for file in files]
    assert len(sizes) == 10
    assert all(min(size) >= 100 for size in sizes)
