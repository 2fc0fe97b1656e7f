"""The WebDataset layout: tar shards of images with a label each, read in place and never extracted."""

import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import (
    advice,
    archives,
    classes,
    containers,
    folders,
    leftovers,
    listing,
    locators,
)
from ddps_ray.sources.leftovers import Leftovers
from ddps_ray.sources.listing import PLAIN, Classes, Listing, Options

SUFFIX = ".tar"
_CLS, _JSON = ".cls", ".json"
_KEYS = ("label", "cls", "class", "class_id")
"""What a label is called in a `.json`, the likeliest first."""
_LONGEST = {_CLS: 4096, _JSON: 2**20}
_THREADS = 32
_BUFFER, _STORE_BUFFER = 8 * 2**10, 8 * 2**20  # bytes that are read at once here, and of a request to a store
_NUMBER = re.compile(r"-?\d+")
_NUMBERED = re.compile(r"\d\.tar$")


@dataclass
class _Shard:
    uri: str
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    bare: int = 0  # images without a label
    idle: int = 0  # labels without an image
    folders: bool = False  # images without a label are in folders
    tops: set[str] = field(default_factory=set)  # the first of those folders
    keys: tuple[str, ...] = ()  # of the first .json without a label
    members: int = 0
    whole: bool = True
    left: Leftovers = field(default_factory=Leftovers)


@dataclass(frozen=True)
class _Reader:
    """What counts as an image and as its label."""

    options: Options

    @property
    def wanted(self) -> str | None:
        """The only ending of images, if there is one."""
        named = self.options.image_column
        return None if named is None else f".{named.lower().lstrip('.')}"

    def is_image(self, name: str) -> bool:
        return folders.is_image(name) if self.wanted is None else name.lower().endswith(self.wanted)

    def key(self, name: str) -> str:
        """What an image's file and that of its label have in common."""
        return name[: -len(self.wanted or leftovers.ending(name))]

    def is_label(self, name: str) -> bool:
        kind = leftovers.ending(name)
        return kind == _JSON or (kind == _CLS and self.options.label_column is None)

    def labels(self, texts: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
        """The label of an image by the texts of its files, and the keys of its `.json` where that has none."""
        if texts.get(_CLS):
            return texts[_CLS], ()
        if not texts.get(_JSON):
            return None, ()
        try:
            said = json.loads(texts[_JSON])
        except (ValueError, RecursionError):
            return None, ()
        if not isinstance(said, dict):
            return None, ()
        wanted = _KEYS if self.options.label_column is None else (self.options.label_column,)
        found = (label for key in wanted if (label := _text(said.get(key))))
        label = next(found, None)
        return label, () if label else tuple(said)


def _text(value: Any) -> str | None:
    """A label as text; None for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else None


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether a folder has tar files, but not ImageNet's, which must be unpacked, nor any beside a split in Parquet."""
    found = containers.found(root, SUFFIX, splits)
    others = containers.found(root, ".parquet", splits)
    if splits[0] in map(advice.last_word, others) and splits[0] not in map(advice.last_word, found):
        return False
    return any(not archives.is_ilsvrc(path) for paths in found.values() for path in paths)


def list_images(
    root: str,
    splits: Sequence[str],
    names: Mapping[str, str] | None = None,
    ground_truth: str | None = None,
    options: Options = PLAIN,
) -> Listing:
    """Lists a data set from the headers of its tar files, in their order, and the contents of its labels.

    A label is the text of a `.cls`, or in a `.json` under one of `_KEYS`. An image without a label, and a label without
    an image, are skipped and said. Of a tar file that ends too early all that is there is listed, with the member that
    is cut, so that reading it says so.

    Args:
        root: Folder or URI.
        splits: What the names of the shards begin with, or the folders that they are in, the training split first.
        names: The user's names of the classes. Where the labels are numbers, the n-th is label n, counted from 0;
            where they are class ids, a label is the index among those of the training split.
        ground_truth: Not used.
        options: Ending of the images, and the key of the labels in the `.json`, where they are not the usual ones.

    Raises:
        UserError: There are no shards of a split, one is no tar file, none has labels, numbers and class ids are mixed,
            a label has several images, two labels would be one class, or a class has no name.
    """
    files = containers.of_splits(root, SUFFIX, splits)
    found = {split: _read_all(root, paths, _Reader(options)) for split, paths in files.items()}
    every = [shard for shards in found.values() for shard in shards]
    notes = (*containers.notes(files), *_notes(every, options))
    if not any(shard.labels for shard in every):
        raise UserError("; ".join([f"data: {root}: its tar files have no images with labels", *notes]) + _remedy(every))
    numeric = _are_numbers(root, every)
    tags = {split: _tags(shards) for split, shards in found.items()}
    known = _numbered(root, tags, names) if numeric else _named(root, tags, names)
    tables = {}
    for split, shards in found.items():
        owners = _class_ids(tags[split], known, numeric)
        uris = [uri for shard in shards for uri in shard.uris]
        members = (name for shard in shards for name in shard.names)
        image_ids = [_image_id(split, owner, name) for owner, name in zip(owners.to_pylist(), members, strict=True)]
        tables[split] = listing.rows(split, image_ids, uris, owners, known)
    skipped = sum(shard.bare + shard.idle + shard.left.count for shard in every)
    return Listing(tables, known.texts, skipped, notes=notes)


def _notes(shards: list[_Shard], options: Options) -> list[str]:
    """What the user should know of the shards, a line each kind."""
    lines = [
        f"{shard.uri} ends too early or is damaged: {shard.members} files were found in it"
        for shard in shards
        if not shard.whole
    ]
    label = "a .cls" if options.label_column is None else f"{options.label_column!r} in a .json"
    if bare := [shard for shard in shards if shard.bare]:
        keys = next((shard.keys for shard in bare if shard.keys), ())
        there = f"; a .json there has {', '.join(keys)}: data.label_column names the one to use" if keys else ""
        lines.append(f"{_those(bare)}: {sum(each.bare for each in bare)} images without {label} are skipped{there}")
    if idle := [shard for shard in shards if shard.idle]:
        lines.append(f"{_those(idle)}: {sum(each.idle for each in idle)} .cls without an image are skipped")
    left = Leftovers()
    for shard in shards:
        left.add(shard.left)
    left.folders = list(dict.fromkeys(left.folders))
    return [*lines, *left.notes()]


def _those(shards: list[_Shard]) -> str:
    return shards[0].uri + (f" and {len(shards) - 1} more shards" if len(shards) > 1 else "")


def _remedy(shards: list[_Shard]) -> str:
    """What to do about tar files without labels: they are archives of folders, or of archives."""
    packed = [
        shard for shard in shards if shard.folders or shard.left.endings[SUFFIX] or not _NUMBERED.search(shard.uri)
    ]
    if not packed or any(shard.keys for shard in shards):
        return ""
    folder = packed[0].uri.rpartition("/")[0]
    tops = {name: shard.tops for shard in packed for place, _, name in [shard.uri.rpartition("/")] if place == folder}
    stems = {name: archives.stem(name) for name in tops}
    if len(tops) > 1 and not any(stems[name] in tops[name] for name in tops):
        return archives.advice(folder, list(tops), inside=True)
    return archives.together(
        folder, {name: advice.is_usual(stem) and stem not in tops[name] for name, stem in stems.items()}
    )


def _read_all(root: str, paths: list[str], reader: _Reader) -> list[_Shard]:
    with ThreadPoolExecutor(_THREADS) as threads:  # a store answers slowly, header by header
        return list(threads.map(lambda path: _read(storage.join(root, path), reader), paths))


def _read(uri: str, reader: _Reader) -> _Shard:
    """Goes once through a tar file, from header to header."""
    images: list[tuple[str, str, str]] = []  # key, name, uri
    texts: dict[str, dict[str, str]] = {}
    shard = _Shard(uri)
    filesystem, path = storage.open_uri(uri)
    try:
        size = _BUFFER if isinstance(filesystem, fs.LocalFileSystem) else _STORE_BUFFER
        with filesystem.open_input_file(path) as stored, io.BufferedReader(stored, size) as file:
            for member, text in _members(uri, file, stored.size(), shard, reader):
                ending = leftovers.ending(_printable(member.name))
                if reader.is_image(member.name):
                    place = locators.part(uri, "bytes", member.offset_data, member.size)
                    images.append((reader.key(member.name), _printable(member.name), place))
                elif reader.is_label(member.name):
                    texts.setdefault(member.name[: -len(ending)], {})[ending] = text
                elif ending not in (_CLS, _JSON):
                    shard.left.endings[ending] += 1
    except OSError as error:
        raise UserError(f"data: {uri} cannot be read{containers.hint(uri) or ': ' + first_line(error)}") from error
    _pair(images, texts, shard, reader)
    return shard


def _members(uri: str, file: BinaryIO, size: int, shard: _Shard, reader: _Reader) -> list[tuple[tarfile.TarInfo, str]]:
    """Returns the regular files of a tar file, with the text of those that are labels."""
    found: list[tuple[tarfile.TarInfo, str]] = []
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - it has nothing of its own to close
        for member in tar:
            *parents, name = member.name.split("/")
            systems = [parent for parent in parents if leftovers.is_system(parent)]
            shard.left.folders += systems[:1]
            if member.isreg() and member.sparse is None and not (systems or name.startswith(".")):
                found.append((member, _contents(tar, member, size) if reader.is_label(name) else ""))
            if tar.offset > size:
                break
        shard.whole = tar.offset <= size and _ends_well(file, tar.offset)
    except tarfile.ReadError as error:
        if not found:
            raise UserError(f"data: {uri} is not a tar file{containers.hint(uri) or f': {error}'}") from error
        shard.whole = False
    shard.members = len(found)
    return found


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> str:
    """Text of a label; nothing where it is too long or cut off."""
    longest = _LONGEST[leftovers.ending(member.name)]
    if member.offset_data + member.size > size or (member.size > longest and longest == _LONGEST[_JSON]):
        return ""
    stored = tar.extractfile(member)
    return stored.read(longest).decode("utf-8-sig", "replace").strip() if stored else ""


def _ends_well(file: BinaryIO, end: int) -> bool:
    """Whether nothing but zeros follows the last member, or nothing at all."""
    file.seek(end)
    return not file.read(tarfile.BLOCKSIZE).strip(b"\0")


def _pair(
    images: list[tuple[str, str, str]], texts: Mapping[str, Mapping[str, str]], shard: _Shard, reader: _Reader
) -> None:
    _check_single(images, texts, shard.uri)
    for key, name, place in images:
        label, keys = reader.labels(texts.get(key, {}))
        shard.keys = shard.keys or keys
        if not label and "/" in name:
            shard.folders = True
            shard.tops.add(name.removeprefix("./").partition("/")[0])
        if label:
            shard.names.append(name)
            shard.labels.append(label)
            shard.uris.append(place)
    shard.bare = len(images) - len(shard.names)
    shard.idle = len({key for key, found in texts.items() if _CLS in found} - {key for key, *_ in images})


def _check_single(images: list[tuple[str, str, str]], texts: Mapping[str, Mapping[str, str]], uri: str) -> None:
    """Raises UserError where several images, such as a photograph and a mask, share a label."""
    endings: dict[str, str] = {}
    for key, name, _ in images:
        ending = leftovers.ending(name)
        if key in texts and (other := endings.setdefault(key, ending)) != ending:
            raise UserError(
                f"data: {uri} has {other} and {ending} of the sample {_printable(key)!r}: name the ending of the "
                f"images in data.image_column, such as {other.lstrip('.')}"
            )


def _are_numbers(root: str, shards: list[_Shard]) -> bool:
    kinds = {bool(_NUMBER.fullmatch(text)) for shard in shards for text in set(shard.labels)}
    if len(kinds) > 1:
        raise UserError(f"data: {root} has images with numbers and others with text for a label")
    return kinds == {True}


def _tags(shards: list[_Shard]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(shard.labels, pa.string()) for shard in shards], pa.string())


def _numbered(root: str, tags: Mapping[str, pa.ChunkedArray], names: Mapping[str, str] | None) -> Classes:
    used = {int(tag) for column in tags.values() for tag in column.unique().to_pylist()}
    return classes.numbered(root, used, None, names)


def _named(root: str, tags: Mapping[str, pa.ChunkedArray], names: Mapping[str, str] | None) -> Classes:
    return classes.of_labels(root, {split: column.unique().to_pylist() for split, column in tags.items()}, names)


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
