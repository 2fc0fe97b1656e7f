"""The bytes of an image's file, for a copy: all formats that are decoded, and nothing that is no image."""

from pathlib import Path

import pytest

from ddps_ray.errors import BadImage
from ddps_ray.sources import reading
from tests.sources.datasets import put
from tests.sources.odd import encoded, picture


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_each_format_is_copied_as_it_is(tmp_path: Path, form: str) -> None:
    data = encoded(picture(), form)
    put(tmp_path / "called.jpg", data)
    assert reading.attempt_encoded([str(tmp_path / "called.jpg")]) == [data]


@pytest.mark.parametrize(
    ("data", "said"),
    [("root:x:0:0:root:/root:/bin/sh", "not an image"), ("-----BEGIN", "not an image"), ("", "empty file")],
)
def test_what_a_link_leads_to_is_copied_only_if_it_is_an_image(tmp_path: Path, data: str, said: str) -> None:
    put(tmp_path / "secrets", data)
    (tmp_path / "x.jpg").symlink_to(tmp_path / "secrets")
    (found,) = reading.attempt_encoded([str(tmp_path / "x.jpg")])
    assert isinstance(found, BadImage)
    assert str(found) == said
