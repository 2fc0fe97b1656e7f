"""One string says where the bytes are, whatever the file is called."""

from pathlib import Path

import pytest

from ddps_ray import storage
from ddps_ray.sources import locators
from ddps_ray.sources.locators import Locator


@pytest.mark.parametrize(
    ("text", "locator"),
    [
        ("/data/a.jpg", Locator("/data/a.jpg")),
        ("/data/x.tar#bytes=512+100", Locator("/data/x.tar", "bytes", 512, 100)),
        ("/data/x.bin#planes=1+3072", Locator("/data/x.bin", "planes", 1, 3072)),
        ("/data/x.parquet#row=7", Locator("/data/x.parquet", "row", 7)),
        ("/data/x.parquet#column=img&row=7", Locator("/data/x.parquet", "row", 7, column="img")),
        ("/data/x.parquet#column=a%26b%23c&row=0", Locator("/data/x.parquet", "row", 0, column="a&b#c")),
        ("/data/x#column=&row=0", Locator("/data/x#column=&row=0")),
        (
            "s3://b/x.tar?endpoint_override=localhost:9000#bytes=512+100",
            Locator("s3://b/x.tar?endpoint_override=localhost:9000", "bytes", 512, 100),
        ),
        ("/a#row=1/x.tar#bytes=0+9", Locator("/a#row=1/x.tar", "bytes", 0, 9)),
        ("/data/#1 dog.jpg", Locator("/data/#1 dog.jpg")),
        ("/data/a#row=1.jpg", Locator("/data/a#row=1.jpg")),
        ("/data/a#bytes=1+", Locator("/data/a#bytes=1+")),
        ("file:///data/a%23row=1", Locator("file:///data/a%23row=1")),
    ],
)
def test_a_fragment_is_split_off_and_nothing_else(text: str, locator: Locator) -> None:
    assert locators.parse(text) == locator


def test_what_is_put_together_comes_apart() -> None:
    uri = "s3://b/x?region=eu#1"
    assert locators.parse(locators.part(uri, "bytes", 1, 2)) == Locator(uri, "bytes", 1, 2)
    assert locators.parse(locators.part(uri, "planes", 1, 2)) == Locator(uri, "planes", 1, 2)
    assert locators.parse(locators.row(uri, 3)) == Locator(uri, "row", 3)
    for column in ("img", "the image's", "a&row=1#x=%41", "ü.jpg"):
        assert locators.parse(locators.row(uri, 3, column)) == Locator(uri, "row", 3, column=column)
        rows = locators.rows(uri, 11, column).to_pylist()
        assert [locators.parse(row) for row in rows] == [Locator(uri, "row", n, column=column) for n in range(11)]


def test_a_file_whose_own_name_ends_like_a_fragment_is_found(tmp_path: Path) -> None:
    for name in ("x#row=3", "x#bytes=0+2", "x.jpg"):
        (tmp_path / name).write_text(name)
        located = locators.parse(locators.whole(str(tmp_path / name)))
        assert located.kind is None
        assert storage.read_bytes(located.uri) == name.encode()
