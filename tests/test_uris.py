"""URIs: what people write is the place that they mean, or is refused; never a neighbour."""

from pathlib import Path

import pytest

from ddps_ray import storage, uris
from ddps_ray.errors import UserError

ODD = "a b#c?d%e+f%20g=ü;h&i@j:k,l'm[n]{o}~p^q|r*s(t)!u$v\\w\"x<y>`z"
"""A name with each character that URIs treat apart."""


@pytest.mark.parametrize(
    ("written", "store", "path", "options"),
    [
        ("file:///T/my#images", "file://", "/T/my#images", ""),
        ("file:///T/my?images", "file://", "/T/my?images", ""),
        ("file:///T/my images/", "file://", "/T/my images/", ""),
        ("file://localhost/T", "file://", "/T", ""),
        ("file:///T/100%", "file://", "/T/100%", ""),
        ("file:///T/100%25", "file://", "/T/100%", ""),
        ("file:///T/a%23b%3Fc%20d", "file://", "/T/a#b?c d", ""),
        ("s3://b/my#images", "s3://b", "/my#images", ""),
        ("s3://b/what%3F", "s3://b", "/what?", ""),
        ("s3://b/a+b/ü", "s3://b", "/a+b/ü", ""),
        ("s3://b", "s3://b", "", ""),
        ("s3://b?region=eu-west-1", "s3://b", "", "region=eu-west-1"),
        ("s3://b/r?endpoint_override=h:9000&scheme=http", "s3://b", "/r", "endpoint_override=h:9000&scheme=http"),
    ],
)
def test_a_uri_is_read_as_people_write_it(written: str, store: str, path: str, options: str) -> None:
    assert uris.parse(written) == uris.Uri(store, path, options)
    assert uris.parse(uris.canonical(written)) == uris.Uri(store, path.rstrip("/"), options)


def test_one_place_has_one_spelling() -> None:
    spellings = ("s3://b/my images", "s3://b/my%20images", "s3://b/my%20images/", "s3://b/%6Dy images")
    assert {uris.canonical(each) for each in spellings} == {"s3://b/my%20images"}
    assert uris.canonical("s3://b/my%20%23images") == uris.canonical("s3://b/my #images") == "s3://b/my%20%23images"
    assert uris.canonical("s3://bucket/exp=1/a+b,c") == "s3://bucket/exp=1/a+b,c", "what need not change does not"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("file:///T/scenes/", "file:///T/scenes"),
        ("s3://b/my images", "s3://b/my%20images"),
        ("s3://b/x%2By?region=eu", "s3://b/x+y?region=eu"),
        ("file:///T/my#images", "file:///T/my"),
        ("file:///T/my?images", "file:///T/my"),
        ("file:///T/my%23images", "file:///T/my%23images"),
        ("s3://b/caf%E9", "s3://b/caf%E9"),
    ],
)
def test_what_was_recorded_before_there_was_one_spelling_is_the_place_that_it_was(written: str, meant: str) -> None:
    assert uris.recorded(written) == meant
    assert uris.recorded(meant) == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("file://T/my", "write file:///T/…"),
        ("s3:/bucket/x", "write s3://…"),
        ("s3:bucket/x", "write s3://…"),
        ("FILE:/x", "write file://…"),
        ("s3://b/x\ny", "control character"),
        ("photos\n", "control character"),
        ("s3://b/x%0Ay", "control character"),
        ("s3://b/caf%E9", "%E9 is not UTF-8"),
        ("s3://b/x?region=y#z", "write %3F"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        storage.absolute(written)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_that_a_store_does_not_have_may_be_a_name() -> None:
    with pytest.raises(UserError, match=r"for a \? in a name write %3F"):
        storage.open_uri("s3://bucket/what?images")


@pytest.mark.parametrize("spelled", ["path", "uri"])
def test_a_folder_of_any_name_is_itself_and_no_neighbour(tmp_path: Path, spelled: str) -> None:
    folder = tmp_path / ODD
    neighbours = [tmp_path / ODD[:length] for length in (1, 3, 5, 7)]
    for each in (folder, *neighbours):
        each.mkdir()
    place = storage.absolute(str(folder) if spelled == "path" else storage.join(tmp_path.as_uri(), ODD))
    storage.write_bytes(storage.join(place, ODD, "x"), b"1")
    assert (folder / ODD / "x").read_bytes() == b"1"
    assert storage.read_bytes(storage.join(place, ODD, "x")) == b"1"
    assert [info.path for info in storage.list_files(place)] == [str(folder / ODD / "x")]
    assert not any(any(each.iterdir()) for each in neighbours)
