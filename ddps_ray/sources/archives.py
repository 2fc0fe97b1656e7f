"""Archives that lie where a data set should: they are not read, and what unpacks them is said."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from shlex import quote

from ddps_ray.sources.listing import WNID

_COMMANDS = {
    ".tar": "tar -xf {} -C {}",
    ".tar.gz": "tar -xf {} -C {}",
    ".tgz": "tar -xf {} -C {}",
    ".tar.bz2": "tar -xf {} -C {}",
    ".tbz2": "tar -xf {} -C {}",
    ".tar.xz": "tar -xf {} -C {}",
    ".txz": "tar -xf {} -C {}",
    ".tar.zst": "tar -xf {} -C {}",
    ".zip": "unzip -q {} -d {}",
    ".7z": "7z x {} -o{}",
    ".rar": "unrar x {} {}/",
}
_ILSVRC = re.compile(r"ILSVRC2012_img_(?P<split>train|val|test)\w*")
_SHARD = re.compile(r"(.*-)?\d{4,}")


def ending(name: str) -> str | None:
    """Ending of an archive's name; None for other files."""
    found = [each for each in _COMMANDS if name.lower().endswith(each)]
    return max(found, key=len, default=None)


def is_ilsvrc(path: str) -> bool:
    """Says whether a tar file is one of those in which ImageNet is given away, of which none is a WebDataset shard."""
    stem = PurePosixPath(path).name.removesuffix(".tar")
    return bool(WNID.fullmatch(stem) or _ILSVRC.fullmatch(stem))


def advice(folder: str, names: Sequence[str], inside: bool = False) -> str:
    """Says, for the end of an error, what unpacks the archives in a folder; nothing where there are none.

    Args:
        folder: Path or URI.
        names: Its files.
        inside: Whether each archive has the images of one class, as those of a split's folder.
    """
    found = [name for name in names if ending(name)]
    if not found:
        return ""
    first = found[0]
    if "://" in folder:
        return f"; {first} is an archive, which is not read: unpack it and put there what is in it"
    if inside:
        return f"; it has {len(found)} archives: unpack each into a folder of its own: {_each(folder, first)}"
    if any(".tar." in name.lower() and _SHARD.fullmatch(_stem(name)) for name in found):
        return f"; {first} is packed: unpack it, or `gunzip` it where it is a WebDataset shard: {_one(folder, first)}"
    return f"; unpack {first} first: {_one(folder, first)}"


def _stem(name: str) -> str:
    return name[: -len(ending(name) or "")]


def _each(folder: str, name: str) -> str:
    kind = name[len(_stem(name)) :]
    folder_of, file = f'"${{f%{kind}}}"', '"$f"'
    unpack = _COMMANDS[kind.lower()].format(file, folder_of)
    return f"`cd {quote(folder)} && for f in *{kind}; do mkdir -p {folder_of} && {unpack} && rm {file}; done`"


def _one(folder: str, name: str) -> str:
    """The command for one archive; ImageNet's have no folder of their split inside, so that one is made."""
    kind = ending(name) or ""
    split = _ILSVRC.fullmatch(_stem(name))
    target = quote(split["split"] if split else ".")
    make = f"mkdir -p {target} && " if split else ""
    return f"`cd {quote(folder)} && {make}{_COMMANDS[kind].format(quote(name), target)}`"
