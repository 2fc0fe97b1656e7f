"""Archives that lie where a data set should: they are not read, and what unpacks them is said."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from shlex import quote

from ddps_ray.sources.listing import WNID

_ARCHIVE = re.compile(r"(?P<stem>.+)(?P<kind>\.(tar(\.\w{2,4})?|t[gbx]z2?|zip|7z|rar))", re.IGNORECASE)
_ILSVRC = re.compile(r"ILSVRC2012_img_(?P<split>train|val|test)\w*")
_SHARD = re.compile(r"(.*-)?\d{4,}")


def is_archive(name: str) -> bool:
    """Says whether a file is called as archives are."""
    return _ARCHIVE.fullmatch(name) is not None


def stem(name: str) -> str:
    """Name of an archive without its ending."""
    found = _ARCHIVE.fullmatch(name)
    return found["stem"] if found else name


def is_ilsvrc(path: str) -> bool:
    """Says whether a tar file is one of those in which ImageNet is given away, of which none is a WebDataset shard."""
    name = PurePosixPath(path).name.removesuffix(".tar")
    return bool(WNID.fullmatch(name) or _ILSVRC.fullmatch(name))


def advice(folder: str, names: Sequence[str], inside: bool = False) -> str:
    """Says, for the end of an error, what unpacks the archives in a folder; nothing where there are none.

    Args:
        folder: Path or URI.
        names: Its files.
        inside: Whether each archive has the images of one class, in no folder of its own.
    """
    found = [name for name in names if is_archive(name)]
    if not found:
        return ""
    first = found[0]
    if "://" in folder:
        return f"; {first} is an archive, which is not read: unpack it and put there what is in it"
    if inside:
        return f"; it has {len(found)} archives: unpack each into a folder of its own{_each(folder, first)}"
    command = _here(folder, {first: False})
    if any(".tar." in name.lower() and _SHARD.fullmatch(stem(name)) for name in found):
        return f"; {first} is packed: unpack it, or `gunzip` it where it is a WebDataset shard{command}"
    return f"; unpack {first} first{command}"


def together(folder: str, names: Mapping[str, bool]) -> str:
    """Says, for the end of an error, what unpacks all of some archives.

    Args:
        folder: Path or URI.
        names: Archives in it, and whether what is in each needs a folder that is called as the archive.
    """
    if "://" in folder:
        return advice(folder, list(names))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"; unpack {next(iter(names))}{more} first{_here(folder, names)}"


def _unpack(kind: str, file: str, target: str) -> str:
    """The command for an archive; empty where it is another program's than the two that everyone has."""
    if kind.lower().startswith((".tar", ".t")):
        return f"tar -xf {file} -C {target}"
    return f"unzip -q {file} -d {target}" if kind.lower() == ".zip" else ""


def _each(folder: str, first: str) -> str:
    """The command for archives that get a folder of their own each, all with the ending of the first."""
    kind = first[len(stem(first)) :]
    target = f'"${{f%{kind}}}"'
    if not (unpack := _unpack(kind, '"$f"', target)):
        return ""
    return f": `cd {quote(folder)} && for f in *{kind}; do mkdir -p {target} && {unpack}; done`"


def _here(folder: str, names: Mapping[str, bool]) -> str:
    """The command for archives that unpack where they are, or into folders that are called as they are."""
    commands = [_one(name, own) for name, own in names.items()]
    return f": `{' && '.join([f'cd {quote(folder)}', *commands])}`" if all(commands) else ""


def _one(name: str, own: bool) -> str:
    """The command for one archive; ImageNet's have no folder of their split inside, so that one is made."""
    split = _ILSVRC.fullmatch(stem(name))
    inner = split["split"] if split else stem(name) if own else "."
    target = quote(inner)
    unpack = _unpack(name[len(stem(name)) :], quote(name), target)
    return f"mkdir -p {target} && {unpack}" if unpack and inner != "." else unpack
