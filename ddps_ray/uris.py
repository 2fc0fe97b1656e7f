"""URIs as text: one spelling for each place, and no character that is silently read as something else."""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from ddps_ray.errors import UserError

_PLAIN = "/:@!$&'()*+,;=~"
"""Marks that a path of a URI may have as they are; all others but letters and digits are percent-encoded."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BAD_ESCAPE = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_NEARLY = re.compile(r"(s3a?|gs|gcs|abfss?|hdfs|file|https?):/?(?!/)", re.IGNORECASE)
"""How a URI begins that lacks a slash or two, and would be taken for a folder here."""


@dataclass(frozen=True)
class Uri:
    """The parts of a URI.

    Attributes:
        store: Scheme and host, e.g. `s3://bucket`.
        path: What follows, decoded: empty, or from a slash on.
        options: The query, without its question mark: options of the store.
    """

    store: str
    path: str
    options: str

    def __str__(self) -> str:
        path = "" if self.path == "/" and not self.store.endswith("/") else quote(self.path, safe=_PLAIN)
        return self.store + path + (f"?{self.options}" if self.options else "")


def is_uri(place: str) -> bool:
    """Says whether a place is a URI, and not a path of this machine."""
    return "://" in place


@lru_cache(maxsize=4096)  # a folder is joined with each of its files
def parse(uri: str) -> Uri:
    """Splits a URI; a `#`, and in a `file://` URI a `?`, is a part of a name, as people write them.

    Raises:
        UserError: It has a character or an escape that cannot be meant.
    """
    check(uri)
    scheme, _, rest = uri.partition("://")
    rest, _, options = (rest, "", "") if scheme == "file" else rest.partition("?")
    host, slash, path = rest.partition("/")
    if "#" in options:
        raise UserError(f"{uri}: options of a store have no #; for a ? in a name write %3F")
    if scheme == "file" and host not in ("", "localhost"):
        raise UserError(f"{uri}: a file has no host, and {host!r} stands in its place: write file:///{host}/…")
    for escape in _BAD_ESCAPE.findall(path):
        try:
            check(unquote(escape, errors="strict"))
        except UnicodeDecodeError as error:
            raise UserError(f"{uri}: {escape} is not UTF-8; for a % in a name write %25") from error
    return Uri(f"{scheme}://{'' if scheme == 'file' else host}", slash + unquote(path), options)


def canonical(uri: str) -> str:
    """Returns the one spelling of a URI: what must be encoded is, what need not be is not, no slash at the end."""
    found = parse(uri)
    return str(Uri(found.store, found.path.rstrip("/") or ("/" if found.store == "file://" else ""), found.options))


def recorded(uri: str) -> str:
    """Returns the one spelling of a URI that was recorded as it was written, when a # (a file's also a ?) ended it."""
    with suppress(UserError):
        return canonical(re.split("[#?]" if uri.startswith("file:") else "#", uri, maxsplit=1)[0])
    return uri


def join(uri: str, *parts: str) -> str:
    """Appends parts of a path, given as they are called; the options stay at the end."""
    found = parse(uri)
    return str(Uri(found.store, "/".join([found.path.rstrip("/"), *parts]), found.options))


def check(place: str) -> None:
    """Sees to it that a place, a path or a URI, can be meant as it is written.

    Raises:
        UserError: It has a control character, or is nearly a URI.
    """
    if _CONTROL.search(place):
        raise UserError(f"{place!r} has a control character, such as a line break")
    if found := _NEARLY.match(place):
        raise UserError(f"{place}: write {found[1].lower()}://…, or ./{place} for a folder here that is called so")
