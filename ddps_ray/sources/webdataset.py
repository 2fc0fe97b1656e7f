"""The WebDataset layout: tar shards of images with a `.cls` file each, read in place and never extracted."""

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import classes, containers, listing, locators
from ddps_ray.sources.listing import Classes, Listing

SUFFIX = ".tar"
_IMAGES = ("jpg", "jpeg", "png")
_LONGEST_LABEL = 4096
_THREADS = 32
_BUFFER = 8192  # bytes of a request: behind an image, a label with its header and the next header are in one
_NUMBER = re.compile(r"-?\d+")


@dataclass
class _Shard:
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    skipped: int = 0
    notes: list[str] = field(default_factory=list)


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether a folder has tar files."""
    return bool(containers.found(root, SUFFIX))


def list_images(
    root: str, splits: Sequence[str], names: Mapping[str, str] | None = None, ground_truth: str | None = None
) -> Listing:
    """Lists a data set from the headers of its tar files, in their order, and the contents of their `.cls` files.

    An image without a label, and a label without an image, are skipped and said. Of a tar file that ends too early
    all that is there is listed, with the member that is cut, so that reading it says so.

    Args:
        root: Folder or URI.
        splits: What the names of the shards begin with, or the folders that they are in, the training split first.
        names: The user's names of the classes. Where the labels are numbers, the n-th is label n, counted from 0;
            where they are class ids, a label is the index among those of the training split.
        ground_truth: Not used.

    Raises:
        UserError: There are no shards of a split, one is no tar file, numbers and class ids are mixed, two labels would
            be one class, or a class has no name.
    """
    files = containers.of_splits(root, SUFFIX, splits)
    found = {split: _read_all(root, paths) for split, paths in files.items()}
    numeric = _are_numbers(root, [shard for shards in found.values() for shard in shards])
    tags = {split: _tags(shards) for split, shards in found.items()}
    known = _numbered(root, tags, names) if numeric else _named(root, splits, tags, names)
    tables = {}
    for split, shards in found.items():
        owners = _class_ids(tags[split], known, numeric)
        uris = [uri for shard in shards for uri in shard.uris]
        members = (name for shard in shards for name in shard.names)
        image_ids = [_image_id(split, owner, name) for owner, name in zip(owners.to_pylist(), members, strict=True)]
        tables[split] = listing.rows(split, image_ids, uris, owners, known)
    every = [shard for shards in found.values() for shard in shards]
    return Listing(
        tables,
        known.texts,
        skipped=sum(shard.skipped for shard in every),
        notes=tuple(note for shard in every for note in shard.notes),
    )


def _read_all(root: str, paths: list[str]) -> list[_Shard]:
    with ThreadPoolExecutor(_THREADS) as threads:  # a store answers slowly, header by header
        return list(threads.map(lambda path: _read(storage.join(root, path)), paths))


def _read(uri: str) -> _Shard:
    """Goes once through a tar file, from header to header."""
    images: list[tuple[str, str, str]] = []  # key, name, uri
    labels: dict[str, str] = {}
    shard = _Shard()
    filesystem, path = storage.open_uri(uri)
    try:
        with filesystem.open_input_file(path) as stored, io.BufferedReader(stored, _BUFFER) as file:
            for member, text in _members(uri, file, stored.size(), shard):
                key, _, ending = member.name.rpartition(".")
                if ending.lower() == "cls":
                    labels[key] = text
                elif ending.lower() in _IMAGES:
                    place = locators.part(uri, "bytes", member.offset_data, member.size)
                    images.append((key, _printable(member.name), place))
    except OSError as error:
        raise UserError(f"data: {uri} cannot be read: {first_line(error)}") from error
    _pair(uri, images, labels, shard)
    return shard


def _members(uri: str, file: BinaryIO, size: int, shard: _Shard) -> list[tuple[tarfile.TarInfo, str]]:
    """Returns the regular files of a tar file, with the text of those that are labels."""
    found: list[tuple[tarfile.TarInfo, str]] = []
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - it has nothing of its own to close
        for member in tar:
            hidden = member.name.rpartition("/")[2].startswith(".")
            if member.isreg() and member.sparse is None and not hidden:
                found.append((member, _text(tar, member, size)))
            if tar.offset > size:
                break
        whole = tar.offset <= size and _ends_well(file, tar.offset)
    except tarfile.ReadError as error:
        if not found:
            raise UserError(f"data: {uri} is not a tar file: {error}") from error
        whole = False
    if not whole:
        shard.notes.append(f"{uri} ends too early or is damaged: {len(found)} files were found in it")
    return found


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> str:
    """Contents of a label; nothing of other files, or where it is cut off."""
    if not member.name.lower().endswith(".cls") or member.offset_data + member.size > size:
        return ""
    stored = tar.extractfile(member)
    return stored.read(_LONGEST_LABEL).decode("utf-8", "replace").strip() if stored else ""


def _ends_well(file: BinaryIO, end: int) -> bool:
    """Whether nothing but zeros follows the last member, or nothing at all."""
    file.seek(end)
    return not file.read(tarfile.BLOCKSIZE).strip(b"\0")


def _pair(uri: str, images: list[tuple[str, str, str]], labels: dict[str, str], shard: _Shard) -> None:
    for key, name, place in images:
        if labels.get(key):
            shard.names.append(name)
            shard.labels.append(labels[key])
            shard.uris.append(place)
    bare = len(images) - len(shard.names)
    idle = len(labels.keys() - {key for key, *_ in images})
    shard.skipped = bare + idle
    if bare:
        shard.notes.append(f"{uri}: {bare} images without a .cls are skipped")
    if idle:
        shard.notes.append(f"{uri}: {idle} .cls without an image are skipped")


def _are_numbers(root: str, shards: list[_Shard]) -> bool:
    kinds = {bool(_NUMBER.fullmatch(text)) for shard in shards for text in set(shard.labels)}
    if len(kinds) > 1:
        raise UserError(f"data: {root} has .cls files with numbers and others with text")
    return kinds == {True}


def _tags(shards: list[_Shard]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(shard.labels, pa.string()) for shard in shards], pa.string())


def _numbered(root: str, tags: Mapping[str, pa.ChunkedArray], names: Mapping[str, str] | None) -> Classes:
    used = {int(tag) for column in tags.values() for tag in column.unique().to_pylist()}
    return classes.numbered(root, used, None, names)


def _named(
    root: str, splits: Sequence[str], tags: Mapping[str, pa.ChunkedArray], names: Mapping[str, str] | None
) -> Classes:
    meant: dict[str, str] = {}
    every: dict[str, set[str]] = {split: set() for split in splits}
    for split, column in tags.items():
        for tag in column.unique().to_pylist():
            class_id = classes.safe(tag)
            every[split].add(class_id)
            if meant.setdefault(class_id, tag) != tag:
                raise UserError(f"data: {root}: the labels {meant[class_id]!r} and {tag!r} would both be {class_id!r}")
    for split in splits[1:]:
        if lacking := sorted(every[split] - every[splits[0]]):
            raise UserError(f"data: {root}: {split!r} has class {lacking[0]}, which the training split does not have")
    return classes.ordered(every[splits[0]], names)


def _class_ids(tags: pa.ChunkedArray, known: Classes, numeric: bool) -> pa.Array:
    by_label = {label: class_id for class_id, label in known.labels.items()}
    distinct = tags.unique()
    found = [by_label[int(tag)] if numeric else classes.safe(tag) for tag in distinct.to_pylist()]
    index = pc.index_in(tags.combine_chunks(), value_set=distinct)
    return pa.array(found, pa.string()).take(index)


def _image_id(split: str, class_id: str, name: str) -> str:
    """Id of a member: its path without the split's and the class's folder, and without a way out of any folder."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for folder in (split, class_id):
        if len(parts) > 1 and parts[0] == folder:
            parts = parts[1:]
    return "/".join([split, class_id, *parts])


def _printable(name: str) -> str:
    """Name with bytes that are not UTF-8 written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
