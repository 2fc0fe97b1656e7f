"""What the web and broken disks leave in a data set: each file is an image or has a reason."""

import gzip
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from ddps_ray import imaging
from ddps_ray.errors import BadImage
from ddps_ray.sources import layouts, locators, reading
from tests.sources import datasets
from tests.sources.odd import HEIGHT, RED, SIZE, WHITE, WIDTH, Made, Maker, animated, chunk, encoded, file, picture
from tests.sources.odd_metadata import METADATA
from tests.sources.odd_samples import SAMPLES, SEVERAL


def cut(share: float, form: str = "JPEG") -> Maker:
    data = encoded(picture(width=480, height=320), form, **({"quality": 95} if form == "JPEG" else {}))
    return file("cut.jpg", data[: int(len(data) * share)])


def exif(orientation: int) -> Maker:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return file("turned.jpg", encoded(picture(), "JPEG", exif=tags, quality=95))


def ycck() -> bytes:
    """A CMYK JPEG whose Adobe marker says that its colours are stored as YCCK."""
    data = bytearray(encoded(Image.new("CMYK", (WIDTH, HEIGHT), (0, 0, 0, 0)), "JPEG"))
    place = data.index(b"Adobe")
    data[place + 11] = 2
    return bytes(data)


def giant(side: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def broken_avif() -> bytes:
    data = encoded(picture(), "AVIF")
    head, mark, pixels = data.partition(b"mdat")
    return head + mark + b"\xff" * len(pixels)


def palette() -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([0, 0, 0, 200, 0, 0])
    return encoded(image, "PNG", transparency=0)


def folder(root: Path) -> Made:
    (root / "folder.jpg").mkdir()
    return str(root / "folder.jpg")


def forbidden(root: Path) -> Made:
    path = root / "forbidden.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    path.chmod(0)
    return str(path)


def inside_a_file(root: Path) -> Made:
    (root / "file").write_text("x")
    return str(root / "file" / "x.jpg")


def tar(start: int, length: int) -> Maker:
    """A range of a tar file of one image, relative to where that lies."""

    def make(root: Path) -> Made:
        datasets.tar(root / "x.tar", {"x.jpg": encoded(picture(), "PNG")})
        return locators.part(str(root / "x.tar"), "bytes", 512 + start, length)

    return make


def climbing(root: Path) -> Made:
    members = {"../../up.png": encoded(picture(), "PNG"), "../../up.cls": b"0/../up"}
    datasets.tar(root / "shards" / "train-0.tar", members)
    listing = layouts.list_images("webdataset", str(root / "shards"), ["train"], None, None)
    row = listing.splits["train"].to_pylist()[0]
    assert (row["image_id"], row["class_id"]) == ("train/0_.._up/up.png", "0_.._up")
    assert [path.name for path in root.iterdir()] == ["shards"]
    return str(row["uri"])


def cut_member(root: Path) -> Made:
    members = {"a.cls": b"0x", "a.png": encoded(picture(), "PNG"), "b.cls": b"0x", "b.png": os.urandom(5000)}
    datasets.tar(root / "train-0.tar", members)
    whole = (root / "train-0.tar").read_bytes()
    (root / "train-0.tar").write_bytes(whole[: 512 * 6 + 1024])
    listing = layouts.list_images("webdataset", str(root), ["train"], None, None)
    assert listing.splits["train"]["image_id"].to_pylist() == ["train/0x/a.png", "train/0x/b.png"]
    assert "ends too early" in listing.notes[0]
    return str(listing.splits["train"]["uri"][1].as_py())


def cell(value: Any, row: int = 0) -> Maker:
    def make(root: Path) -> Made:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({"image": pa.array([value], kind)}), root / "x.parquet")
        return locators.row(str(root / "x.parquet"), row)

    return make


def planes(length: int) -> Maker:
    def make(root: Path) -> Made:
        (root / "x.bin").write_bytes(b"\xff" * 1024 + b"\0" * 2048)
        return locators.part(str(root / "x.bin"), "planes", 0, length)

    return make


CASES: dict[str, tuple[Maker, Any]] = {
    **{
        f"JPEG cut at {share:.0%}": (cut(share), r"cannot be decoded|not an image|empty")
        for share in (0, 0.002, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    },
    "PNG cut in half": (cut(0.5, "PNG"), r"cannot be decoded"),
    "WebP cut in half": (cut(0.5, "WEBP"), r"cannot be decoded|not an image"),
    "damaged AVIF": (file("x.avif", broken_avif), "cannot be decoded"),
    "zero bytes": (file("x.jpg", b""), "empty file"),
    "zeros": (file("x.jpg", b"\0" * 5000), "not an image"),
    "noise": (file("x.jpg", lambda: np.random.default_rng(0).bytes(5000)), "not an image"),
    "noise inside a JPEG": (
        file("x.jpg", lambda: encoded(picture(), "JPEG")[:20] + np.random.default_rng(0).bytes(5000)),
        "cannot be decoded|not an image",
    ),
    "gzip of a JPEG": (file("x.jpg", lambda: gzip.compress(encoded(picture(), "JPEG"))), "not an image"),
    "text": (file("x.jpg", b"I am a poem.\n" * 9), "not an image"),
    "HTML": (file("x.jpg", b"<!DOCTYPE html><html><body>404</body></html>"), "not an image"),
    "SVG": (file("x.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), "not an image"),
    "PostScript": (
        file("x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "not an image|cannot be decoded",
    ),
    "30,000 x 30,000": (file("x.png", lambda: giant(30_000)), "more than 100000000 pixels"),
    "10,001 x 10,001": (file("x.png", lambda: giant(10_001)), "more than 100000000 pixels"),
    "PNG without a right checksum": (
        file("x.png", lambda: encoded(picture(), "PNG").replace(b"IDAT", b"IDAX")),
        "cannot be decoded|not an image",
    ),
    "a folder": (folder, "cannot be read: IsADirectoryError"),
    "a file that vanished": (lambda root: str(root / "gone.jpg"), "cannot be read: FileNotFoundError"),
    "a file as a folder": (inside_a_file, "cannot be read: NotADirectoryError"),
    "no permission": (forbidden, "cannot be read: PermissionError"),
    "member past the end": (tar(0, 99_999), r"cannot be read: bytes up to 100511 are wanted, the file ends at \d+"),
    "member that begins past the end": (tar(99_999, 1), "cannot be read: bytes up to"),
    "member of nothing": (tar(0, 0), "empty file"),
    "the header instead of the member": (tar(-512, 512), "not an image"),
    "member cut off with its tar": (cut_member, "cannot be read: bytes up to"),
    "null row": (cell(None), "no bytes are stored"),
    "null bytes": (cell({"bytes": None, "path": "x.jpg"}), "no bytes are stored"),
    "row past the end": (cell({"bytes": b"x"}, 7), "row 7 is past the end"),
    "row of text": (cell({"bytes": b"text"}), "not an image"),
    "planes that are no square": (planes(3000), "3000 bytes are not three square planes"),
    # From here on, what is odd and yet an image: its size and the colour of its upper left corner.
    "PNG called .JPEG": (file("x.JPEG", lambda: encoded(picture(), "PNG")), (SIZE, RED)),
    "JPEG called .png": (file("x.png", lambda: encoded(picture(), "JPEG", quality=95)), (SIZE, RED)),
    "BMP": (file("x.bmp", lambda: encoded(picture(), "BMP")), (SIZE, RED)),
    "TIFF": (file("x.tif", lambda: encoded(picture(), "TIFF")), (SIZE, RED)),
    "progressive JPEG": (file("x.jpg", lambda: encoded(picture(), "JPEG", progressive=True, quality=95)), (SIZE, RED)),
    "JPEG with bytes behind": (file("x.jpg", lambda: encoded(picture(), "JPEG", quality=95) + b"\0" * 99), (SIZE, RED)),
    "CMYK": (
        file("x.jpg", lambda: encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG", quality=95)),
        (SIZE, RED),
    ),
    "YCCK": (file("x.jpg", ycck), (SIZE, None)),
    "grey": (file("x.jpg", lambda: encoded(Image.new("L", SIZE, 255), "JPEG")), (SIZE, WHITE)),
    "one bit": (file("x.png", lambda: encoded(Image.new("1", SIZE, 1), "PNG")), (SIZE, WHITE)),
    "16-bit grey": (
        file("x.png", lambda: encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 65535, np.uint16)), "PNG")),
        (SIZE, WHITE),
    ),
    "32-bit float": (
        file("x.tif", lambda: encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.float32)), "TIFF")),
        (SIZE, WHITE),
    ),
    "palette with transparency": (file("x.png", palette), (SIZE, WHITE)),
    "RGBA": (file("x.png", lambda: encoded(Image.new("RGBA", SIZE, (0, 0, 0, 0)), "PNG")), (SIZE, WHITE)),
    "1 x 1": (file("x.png", lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG")), ((1, 1), RED)),
    "1 x 5000": (file("x.png", lambda: encoded(Image.new("RGB", (1, 5000), RED), "PNG")), ((1, 5000), RED)),
    "5000 x 1": (file("x.gif", lambda: encoded(Image.new("RGB", (5000, 1), RED), "GIF")), ((5000, 1), RED)),
    **{
        f"EXIF orientation {n}": (
            exif(n),
            (SIZE if n < 5 else (HEIGHT, WIDTH), (0, 0, 255) if n in (2, 3, 7, 8) else RED),
        )
        for n in range(1, 9)
    },
    "EXIF orientation 9": (exif(9), (SIZE, RED)),
    "animated GIF": (file("x.gif", lambda: animated("GIF")), (SIZE, RED)),
    "animated WebP": (file("x.webp", lambda: animated("WEBP", lossless=True)), (SIZE, RED)),
    "tar path that climbs": (climbing, (SIZE, RED)),
    "planes": (planes(3072), ((32, 32), RED)),
    **METADATA,
    **SAMPLES,
    **SEVERAL,
}


def described(image: Image.Image) -> tuple[Any, ...]:
    last = (image.width - 1, image.height - 1)
    return image.mode, image.size, image.getpixel((0, 0)), image.getpixel(last)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of them read in one go, as a batch of the pipeline is."""
    places = [maker(tmp_path_factory.mktemp("case")) for maker, _ in CASES.values()]
    results = reading.attempt(places, described)
    return dict(zip(CASES, results, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_each_file_is_an_image_or_has_a_reason(name: str, outcomes: dict[str, Any]) -> None:
    expected, result = CASES[name][1], outcomes[name]
    if name == "no permission" and not isinstance(result, BadImage) and os.geteuid() == 0:
        pytest.skip("root may read everything")
    if isinstance(expected, str):
        assert isinstance(result, BadImage), result
        assert re.search(expected, str(result)), result
        assert "\n" not in str(result)
        return
    assert not isinstance(result, BadImage), result
    mode, size, *corners = result
    assert (mode, size) == ("RGB", expected[0])
    for corner, colour in zip(corners, expected[1:], strict=False):
        if colour is not None:
            assert max(abs(a - b) for a, b in zip(corner, colour, strict=True)) <= 6


def test_the_documentation_lists_every_reason_and_no_other(outcomes: dict[str, Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    documented = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    given = {str(result) for result in outcomes.values() if isinstance(result, BadImage)}
    with pytest.raises(BadImage) as strip:
        imaging.scaled_size(81, 10, 32, 8, max_aspect=8)
    given.add(str(strip.value))
    patterns = [".+".join(map(re.escape, reason.split("…"))) for reason in documented]
    assert [reason for reason in given if not any(re.fullmatch(pattern, reason) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, reason) for reason in given)] == []
