"""Where an image's bytes are, as one string: a file's path or URI, and for a part of it a fragment behind."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from ddps_ray import uris

Kind = Literal["bytes", "planes", "row"]

_FRAGMENT = re.compile(
    r"#(?:(?P<kind>bytes|planes)=(?P<start>\d+)\+(?P<length>\d+)|(?:column=(?P<column>[^#&=]+)&)?row=(?P<row>\d+))"
)


@dataclass(frozen=True)
class Locator:
    """A file, or a part of it.

    Attributes:
        uri: Path or URI of the file.
        kind: None for the whole file; `bytes` for an encoded image inside; `planes` for three square planes of red,
            green and blue bytes, not encoded; `row` for a row of a Parquet file.
        start: First byte, or number of the row.
        length: Bytes; 0 for a row.
        column: Column of the images, where a row says so; None where the file has only one that could be it.
    """

    uri: str
    kind: Kind | None = None
    start: int = 0
    length: int = 0
    column: str | None = None


def parse(text: str) -> Locator:
    """Splits a locator into its file and the part of it; any text is one."""
    base, mark, rest = text.rpartition("#")
    found = _FRAGMENT.fullmatch(mark + rest)
    if not found:
        return Locator(text)
    if found["row"] is not None:
        return Locator(base, "row", int(found["row"]), column=found["column"] and unquote(found["column"]))
    return Locator(base, "planes" if found["kind"] == "planes" else "bytes", int(found["start"]), int(found["length"]))


def same(one: str, other: str) -> bool:
    """Says whether two locators mean the same bytes, however their URIs are spelled."""
    return one == other or _canonical(one) == _canonical(other)


def _canonical(text: str) -> Locator:
    found = parse(text)
    return replace(found, uri=uris.recorded(found.uri)) if uris.is_uri(found.uri) else found


def part(uri: str, kind: Literal["bytes", "planes"], start: int, length: int) -> str:
    """Locates bytes inside a file."""
    return f"{uri}#{kind}={start}+{length}"


def row(uri: str, number: int, column: str | None = None) -> str:
    """Locates a row of a Parquet file, counted from 0, and the column of its image."""
    named = "" if column is None else f"column={quote(column, safe='')}&"
    return f"{uri}#{named}row={number}"


def rows(uri: str, count: int, column: str | None = None) -> pa.StringArray:
    """Locates each of the first `count` rows of a Parquet file."""
    numbers = pa.array(range(count), pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(row(uri, 0, column).removesuffix("0"), numbers, "")


def whole(path: str) -> str:
    """Locates a whole file, also one whose own name ends as a fragment does: its URI has %23 for the #."""
    return path if parse(path).kind is None else Path(path).as_uri()
