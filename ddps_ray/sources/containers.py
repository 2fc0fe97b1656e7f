"""Files that hold many images each, and which split each is of: by the beginning of its name, or by its folder."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import advice, folders

_COUNT = r"[-_.]of[-_.](?P<count>\d+)(-[0-9a-f]+)?"
_NUMBER = rf"(?P<number>\d+)({_COUNT})?"
_NUMBERED = re.compile(rf"(?P<split>.*?[^-_.\d])[-_.]?{_NUMBER}")
"""`train-00000-of-00294`, `imagenet1k-train-0000`, or `train00`."""

_SHARD = re.compile(rf"(?P<before>.*?){_NUMBER}")

_NEUTRAL = ("", "data")
"""Folders that are neither a split nor a configuration."""

_SPARSE = 1000
_POINTER = b"version https://git-lfs"


@dataclass
class _Split:
    """Files of one split that lie together.

    Attributes:
        configuration: Folder that holds splits; empty where that is the root.
        folder: Folder of the files.
        name: Split.
        paths: The files, inside the root.
    """

    configuration: str
    folder: str
    name: str
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Shard:
    """A file of a split.

    Attributes:
        path: Inside the root.
        number: As it is written; None where it has none.
        count: Of how many files it is one, where its name says so.
    """

    path: str
    number: str | None
    count: int | None

    @property
    def kind(self) -> tuple[bool, int | None]:
        """What the files of one copy of a split have in common."""
        return self.number is None, self.count


def found(root: str, suffix: str, wanted: Collection[str] = ()) -> dict[str, list[str]]:
    """Finds the containers in a folder, in its subfolders, and in folders of splits inside those.

    Args:
        root: The data set.
        suffix: How a container's name ends, e.g. `.tar`.
        wanted: Names of splits, besides the usual ones.

    Returns:
        Their paths inside `root` by split, sorted.
    """
    splits: dict[str, list[str]] = {}
    for each in _found(root, suffix, wanted):
        splits.setdefault(each.name, []).extend(each.paths)
    return {split: sorted(splits[split]) for split in sorted(splits)}


def of_splits(root: str, suffix: str, splits: Sequence[str]) -> dict[str, list[str]]:
    """Returns the paths inside a root of each wanted split's containers.

    A split is wanted by its whole name, or by the last word of it: `train` also means `imagenet1k-train`.

    Raises:
        UserError: One has none, or is not whole; or two have the same last word, or a split lies in several places, or
            several configurations have it; the message names those that are there.
    """
    folders.check_root(root)
    there = _found(root, suffix, splits)
    chosen = {split: _of_split(root, split, splits, there) for split in splits}
    for each in chosen.values():
        _check_whole(root, each)
    return {split: sorted(each.paths) for split, each in chosen.items()}


def notes(files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What the user should know of the containers of each split: some may be missing, or the Hub has copied a part."""
    partial = [paths[0].rpartition("/")[0] for paths in files.values() if "partial-" in paths[0].rpartition("/")[0]]
    lines = [f"warning: {folder} holds only the first part of the data set, as the Hub made it" for folder in partial]
    for split, paths in files.items():
        lines += [gap for shards in _shards(split, paths) if (gap := _gap(split, shards))]
    return tuple(lines)


def hint(uri: str) -> str:
    """Says, for the end of an error, what a file is that is not what it is called; nothing where that is not known."""
    try:
        filesystem, path = storage.open_uri(uri)
        with filesystem.open_input_file(path) as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return ""
    return ": it only points to what Git LFS has: fetch it with `git lfs pull`" if pointer else ""


def _of_split(root: str, split: str, splits: Sequence[str], there: list[_Split]) -> _Split:
    matches = [each for each in there if each.name == split] or [
        each for each in there if advice.last_word(each.name) == split
    ]
    matches = [each for each in matches if not each.configuration] or matches
    if len(matches) == 1:
        return matches[0]
    names = sorted({each.name for each in there})
    if not matches:
        raise advice.no_split(root, split, splits, names, more=advice.unnamed(root, names))
    if len({each.name for each in matches}) > 1:
        raise UserError(f"data: {root} has more than one split {split!r}; it has {advice.some(names)}")
    configurations = sorted({each.configuration for each in matches})
    if len(configurations) == 1:
        raise UserError(_several_places(root, split, matches))
    raise UserError(
        f"data: {root} has several configurations with the split {split!r}, {advice.some(configurations)}: set "
        f"data.root to the folder of one, such as {storage.join(root, configurations[0])}"
    )


def _several_places(root: str, split: str, matches: Sequence[_Split]) -> str:
    """The error for copies of a split side by side, all of which would count."""
    places = " and ".join(each.paths[0] for each in matches)
    deeper = [each.folder for each in matches if each.folder and each.folder.rpartition("/")[2] != each.name]
    choice = f"set data.root={storage.join(root, deeper[0])}, or " if deeper else ""
    return (
        f"data: {root} has the split {split!r} in {len(matches)} places, {places}, which could be copies: {choice}"
        "leave one of them in it"
    )


def _shards(split: str, paths: Sequence[str]) -> list[list[_Shard]]:
    """A split's files, those together whose names differ only in what numbers them."""
    alike: dict[str, list[_Shard]] = {}
    for path in sorted(paths):
        stem = PurePosixPath(path).stem
        numbered = _SHARD.fullmatch(stem)
        before = (numbered["before"] if numbered else stem).rstrip("-_.")
        number, count = (numbered["number"], numbered["count"]) if numbered else (None, None)
        shard = _Shard(path, number, int(count) if count else None)
        alike.setdefault("" if before == split else before, []).append(shard)
    return list(alike.values())


def _check_whole(root: str, split: _Split) -> None:
    """Raises UserError where a split lacks some of the files that their names count, or has some of them twice."""
    for shards in _shards(split.name, split.paths):
        if copies := _copies(shards):
            raise UserError(
                f"data: {root}: {copies[0].path} and {copies[1].path} are of different copies of the split "
                f"{split.name!r}, and both would count: leave one copy there"
            )
        if lacking := _lacking(shards):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise UserError(
                f"data: {root} lacks {lacking[0]}{more} of the {shards[0].count} files of the split {split.name!r}: "
                "fetch what is missing"
            )


def _copies(shards: Sequence[_Shard]) -> tuple[_Shard, _Shard] | None:
    """Two files that cannot be of the same copy of a split: numbered in other ways, or with the same number."""
    first: dict[int, _Shard] = {}
    for shard in shards:
        if shard.kind != shards[0].kind:
            return shards[0], shard
        if shard.count is not None and (other := first.setdefault(int(shard.number or 0), shard)) is not shard:
            return other, shard
    return None


def _lacking(shards: Sequence[_Shard]) -> list[str]:
    """Names of the files that are not there of those that the names of the others count, from 0 or from 1 on."""
    name, number, count = PurePosixPath(shards[0].path).name, shards[0].number, shards[0].count
    if number is None or count is None:
        return []
    there = {int(shard.number or 0) for shard in shards}
    start = 0 if count not in there else 1
    # What comes behind the count is a digest of the file's own.
    before, _, behind = name.partition(number)
    behind = re.sub(r"(\d)-[0-9a-f]+\.", r"\1.", behind)
    return [f"{before}{each:0{len(number)}d}{behind}" for each in range(start, start + count) if each not in there]


def _gap(split: str, shards: Sequence[_Shard]) -> str | None:
    """Warns where the numbers of files that are not counted leave some out, or begin late though written in full."""
    texts = [shard.number for shard in shards if shard.number is not None and shard.count is None]
    numbers = sorted(map(int, texts))
    if len(numbers) < 2 - any(text.startswith("0") for text in texts):
        return None
    padded = any(text.startswith("0") for text in texts)
    start = 0 if padded and numbers[0] > 1 else numbers[0]
    lacking = numbers[-1] - start + 1 - len(set(numbers))
    if not 0 < lacking <= _SPARSE * len(numbers):  # beyond it they are dates, or ids of classes
        return None
    first = next(number for number in range(start, numbers[-1]) if number not in set(numbers))
    more = f" and {lacking - 1} more" if lacking > 1 else ""
    return (
        f"warning: the files of the split {split!r} are numbered up to {numbers[-1]}, but {first}{more} are not there: "
        "see whether all have been fetched"
    )


def _found(root: str, suffix: str, wanted: Collection[str]) -> list[_Split]:
    words = advice.WORDS | {split.casefold() for split in wanted}
    splits: dict[tuple[str, str, str], _Split] = {}
    for folder, names in _levels(root, words):
        for name in names:
            if name.endswith(suffix):
                configuration, split = _place(folder, _own(name.removesuffix(suffix), wanted), words)
                path = f"{folder}/{name}" if folder else name
                key = configuration, folder, split
                splits.setdefault(key, _Split(configuration, folder, split)).paths.append(path)
    return [splits[key] for key in sorted(splits)]


def _levels(root: str, words: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Files of the root, its subfolders, and their subfolders that are called as splits are, by folder."""
    top = folders.look(root)
    yield "", top.names
    for folder in top.folders:
        here = folders.look(storage.join(root, folder))
        yield folder, here.names
        for name in here.folders:
            if _is_split(name, words):
                yield f"{folder}/{name}", folders.look(storage.join(root, folder, name)).names


def _own(stem: str, wanted: Collection[str]) -> str:
    """The split that a container's name without the ending says: one that is wanted, or what is before its number."""
    for split in sorted(wanted, key=len, reverse=True):
        between = "[-_.]" if split[-1:].isdigit() else "[-_.]?"
        if said := re.fullmatch(rf"(?P<split>(.*[-_.])?{re.escape(split)})({between}{_NUMBER})?", stem):
            return said["split"]
    numbered = _NUMBERED.fullmatch(stem)
    return numbered["split"] if numbered else stem


def _place(folder: str, own: str, words: Collection[str]) -> tuple[str, str]:
    """Configuration and split of a container, by its folder and the split that its name says."""
    outer, _, last = folder.rpartition("/")
    if folder in _NEUTRAL:
        configuration, split = "", own
    elif _is_split(own, words) and not outer and not _is_split(last, words):
        configuration, split = last, own
    else:
        configuration, split = outer, last
    return ("" if configuration in _NEUTRAL else configuration), split


def _is_split(name: str, words: Collection[str]) -> bool:
    return name.casefold() in words or advice.last_word(name).casefold() in words
