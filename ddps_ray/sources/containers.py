"""Files that hold many images each, and which split each is of: by the beginning of its name, or by its folder."""

import re
from collections.abc import Sequence

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import folders

_NUMBERED = re.compile(r"(?P<split>.*?[^-_.\d])[-_.]?\d+(-of-\d+(-[0-9a-f]+)?)?")
"""`train-00000-of-00294`, `imagenet1k-train-0000`, or `train00`."""


def found(root: str, suffix: str) -> dict[str, list[str]]:
    """Finds the containers in a folder, in its subfolder `data`, and in a folder a split.

    Args:
        root: The data set.
        suffix: How a container's name ends, e.g. `.tar`.

    Returns:
        Their paths inside `root` by split, sorted.
    """
    paths = [name for name in folders.files(root) if name.endswith(suffix)]
    for folder in folders.folders(root):
        names = folders.files(storage.join(root, folder))
        paths += [f"{folder}/{name}" for name in names if name.endswith(suffix)]
    splits: dict[str, list[str]] = {}
    for path in paths:
        splits.setdefault(_split(path.removesuffix(suffix)), []).append(path)
    return {split: sorted(splits[split]) for split in sorted(splits)}


def of_splits(root: str, suffix: str, splits: Sequence[str]) -> dict[str, list[str]]:
    """Returns the paths inside a root of each wanted split's containers.

    A split is wanted by its whole name, or by the last word of it: `train` also means `imagenet1k-train`.

    Raises:
        UserError: One has none, or two have the same last word; the message names those that are there.
    """
    folders.check_root(root)
    there = found(root, suffix)
    chosen = {}
    for split in splits:
        matches = [name for name in there if name == split] or [
            name for name in there if re.split(r"[-_.]", name)[-1] == split
        ]
        if len(matches) != 1:
            which = "no" if not matches else "more than one"
            raise UserError(f"data: {root} has {which} split {split!r}; it has {', '.join(there) or 'none at all'}")
        chosen[split] = there[matches[0]]
    return chosen


def _split(path: str) -> str:
    """Split of a container, by its path without the ending."""
    folder, _, name = path.rpartition("/")
    if folder not in ("", "data"):
        return folder
    numbered = _NUMBERED.fullmatch(name)
    return numbered["split"] if numbered else name
