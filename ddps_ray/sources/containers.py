"""Files that hold many images each, and which split each is of: by the beginning of its name, or by its folder."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import advice, folders

_NUMBERED = re.compile(r"(?P<split>.*?[^-_.\d])[-_.]?\d+(-of-\d+(-[0-9a-f]+)?)?")
"""`train-00000-of-00294`, `imagenet1k-train-0000`, or `train00`."""

_NEUTRAL = ("", "data")
"""Folders that are neither a split nor a configuration."""

_POINTER = b"version https://git-lfs"


@dataclass
class _Split:
    """Files of one split of one configuration, a folder that holds splits."""

    configuration: str
    name: str
    paths: list[str] = field(default_factory=list)


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
        UserError: One has none, or two have the same last word, or several configurations have it; the message names
            those that are there.
    """
    folders.check_root(root)
    there = _found(root, suffix, splits)
    return {split: sorted(_of_split(root, split, splits, there).paths) for split in splits}


def notes(files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What the user should know of the containers of each split: the Hub's own copies may be of a part only."""
    partial = [paths[0].rpartition("/")[0] for paths in files.values() if "partial-" in paths[0].rpartition("/")[0]]
    return tuple(
        f"warning: {folder} holds only the first part of the data set, as the Hub made it" for folder in partial
    )


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
    at_the_top = [each for each in matches if each.configuration in _NEUTRAL]
    matches = at_the_top or matches
    if len(matches) == 1:
        return matches[0]
    names = sorted({each.name for each in there})
    if not matches:
        raise advice.no_split(root, split, splits, names)
    configurations = sorted({each.configuration for each in matches})
    if len(configurations) == 1:
        raise UserError(f"data: {root} has more than one split {split!r}; it has {', '.join(names)}")
    raise UserError(
        f"data: {root} has several configurations with the split {split!r}, {', '.join(configurations)}: set data.root "
        f"to the folder of one, such as {storage.join(root, configurations[0])}"
    )


def _found(root: str, suffix: str, wanted: Collection[str]) -> list[_Split]:
    words = advice.WORDS | {split.casefold() for split in wanted}
    splits: dict[tuple[str, str], _Split] = {}
    for folder, names in _levels(root, words):
        for name in names:
            if name.endswith(suffix):
                configuration, split = _place(folder, name.removesuffix(suffix), words)
                path = f"{folder}/{name}" if folder else name
                splits.setdefault((configuration, split), _Split(configuration, split)).paths.append(path)
    return [splits[key] for key in sorted(splits)]


def _levels(root: str, words: Collection[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Files of the root, its subfolders, and their subfolders that are called as splits are, by folder."""
    top = folders.look(root)
    levels = [("", top.files)]
    for folder in top.folders:
        here = folders.look(storage.join(root, folder))
        levels.append((folder, here.files))
        inner = [name for name in here.folders if _is_split(name, words)]
        levels += [(f"{folder}/{name}", folders.look(storage.join(root, folder, name)).files) for name in inner]
    return levels


def _place(folder: str, stem: str, words: Collection[str]) -> tuple[str, str]:
    """Configuration and split of a container, by its folder and its name without the ending."""
    numbered = _NUMBERED.fullmatch(stem)
    own = numbered["split"] if numbered else stem
    if folder in _NEUTRAL:
        return "", own
    configuration, _, last = folder.rpartition("/")
    if _is_split(own, words) and not configuration and not _is_split(last, words):
        return last, own
    return ("" if configuration in _NEUTRAL else configuration), last


def _is_split(name: str, words: Collection[str]) -> bool:
    return name.casefold() in words or advice.last_word(name).casefold() in words
