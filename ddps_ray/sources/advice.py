"""What a user can do about a data set that does not lie as it should: the second half of an error."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ddps_ray import storage, uris
from ddps_ray.errors import UserError
from ddps_ray.sources import archives, folders, leftovers

_USUAL = {
    "train": ("train", "training", "trn"),
    "val": ("val", "validation", "valid", "dev", "test", "testing", "eval"),
}
"""What the splits of each setting are called, the likeliest first."""

_MOST = 10  # names in an error
_WIDE, _LOOKS = 8, 30  # subfolders that are no classes; folders that are looked into for an advice

WORDS = frozenset(word for words in _USUAL.values() for word in words)
"""What splits are usually called."""


def check_splits(root: str, splits: Sequence[str]) -> None:
    """Sees to it that each split has a folder.

    Raises:
        UserError: One has none; the message names those that are there, and what to do.
    """
    folders.check_root(root)
    here = folders.look(root)
    for split in splits:
        if split in here.dangling:
            raise UserError(f"data: {storage.join(root, split)} is a link that leads nowhere")
        if split not in here.folders:
            raise no_split(root, split, splits, here.folders, "folder", _lie(root, split, splits, here))


def no_split(
    root: str, split: str, splits: Sequence[str], there: Iterable[str], kind: str = "split", more: str = ""
) -> UserError:
    """The error for a split that is not there, with the setting that names one which could be meant.

    Args:
        root: Data set.
        split: The split.
        splits: All that are wanted, the training split first.
        there: Those that are there.
        kind: What a split is in this layout.
        more: What to do about it instead.
    """
    there = list(there)
    key = "train" if split == splits[0] else "val"
    if not more and (offered := offer(key, splits, there)):
        more = f": set data.{key}={offered}"
    if not more and key == "val":
        more = "; where there is none, set data.val=null"
    return UserError(f"data: {root} has no {kind} {split!r}; it has {some(there) or 'none at all'}{more}")


def offer(key: str, splits: Sequence[str], there: Sequence[str]) -> str | None:
    """The split that could be meant by `data.train` or `data.val`, among those that are there."""
    for called in (str, last_word, first_word):
        for word in _USUAL[key]:
            for name in there:
                if called(name).casefold() == word and name not in splits:
                    return name
    return None


def last_word(name: str) -> str:
    """Last word of a split's name, by which it may be called: `train` of `imagenet1k-train`."""
    return re.split(r"[-_.]", name)[-1]


def first_word(name: str) -> str:
    """First word of a split's name, by which it is offered: `train` of `train_images`."""
    return re.split(r"[-_.]", name)[0]


def is_usual(name: str) -> bool:
    """Says whether a folder is called as splits are: by a usual word, or one that begins or ends so."""
    return any(called(name).casefold() in WORDS for called in (str, last_word, first_word))


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def parent(root: str) -> tuple[str, str]:
    """The folder that a folder is in, and its name there."""
    if "://" not in root:
        place, _, name = root.rstrip("/").rpartition("/")
        return place or "/", name
    found = uris.parse(root)
    place, _, name = found.path.rstrip("/").rpartition("/")
    return str(uris.Uri(found.store, place, found.options)), name


def unnamed(root: str, there: Sequence[str]) -> str:
    """Says, for the end of an error, how shards are read whose names are numbers only, as img2dataset writes them."""
    if not there or not all(name.isdigit() for name in there):
        return ""
    place, name = parent(root)
    return f": if these are the files of one split, set data.root={place} data.train={name} data.val=null"


def flat(folder: str, files: Sequence[str]) -> str:
    """Says, for the end of an error, what to do about images or archives that lie where class folders should."""
    count = sum(map(folders.is_image, files))
    if count:
        return f"; it has {count} images: move each into a folder of its class"
    return archives.advice(folder, files, inside=True) or _has(files)


def nothing(root: str) -> str:
    """Says, for the end of an error, what to do about a root that is no data set of any layout."""
    here = folders.look(root)
    count = sum(map(folders.is_image, here.files))
    if count and not here.folders:
        return f"; it has {count} images in no folder: move each into train/<class>/, and some into val/<class>/"
    if "data_batch_1" in here.files or {"train", "meta"} <= set(here.files):
        return "; it is CIFAR for Python, which is pickled and never loaded: get the binary version"
    return archives.advice(root, here.files) or _has(here.files)


def _has(files: Sequence[str]) -> str:
    return f"; its files are {leftovers.in_words(Counter(map(leftovers.ending, files)))}" if files else ""


def _lie(root: str, split: str, splits: Sequence[str], here: folders.Entries) -> str:
    """What to do where there is no folder of a split, nor one that could be meant."""
    named = [name for name in here.files if split.casefold() in name.casefold()]
    if packed := archives.advice(root, named):
        return packed
    few = len(here.folders) <= _WIDE  # more may be classes, such as `test_tube`
    if any(is_usual(name) if few else name.casefold() in WORDS for name in here.folders):
        return ""
    place, name = parent(root)
    if name.casefold() in WORDS:
        return f"; if this is the split itself, set data.root={place}"
    if split != splits[0]:
        return ""
    if here.folders and any(map(folders.is_image, folders.files(storage.join(root, here.folders[0])))):
        return (
            f"; if these are the classes, move them into a folder {split}/ there, or set data.root={place} "
            f"data.train={name} data.val=null"
        )
    return _undivided(root) or archives.advice(root, here.files)


def _undivided(root: str) -> str:
    """Says where the class folders of a data set without splits are, and the settings that read it whole."""
    level, looks = [root], 0
    while level:
        inner: list[str] = []
        for folder in level:
            names = folders.folders(folder)
            looks += 1 + len(names)
            if len(names) > _WIDE or looks > _LOOKS:
                return ""
            places = [storage.join(folder, name) for name in names]
            if holding := [name for name, place in zip(names, places, strict=True) if _holds_classes(place)]:
                return _whole(root, folder, holding)
            inner += places
        level = inner
    return ""


def _holds_classes(folder: str) -> bool:
    """Whether a folder has subfolders, the first of which has images."""
    names = folders.folders(folder)
    return len(names) > 1 and any(map(folders.is_image, folders.files(storage.join(folder, names[0]))))


def _whole(root: str, folder: str, holding: Sequence[str]) -> str:
    """The settings that read a data set whole: its class folders lie in some folders of a folder."""
    if len(holding) > 1 and folder != root:  # as where classes are filed under their first letters
        (place, name), deep = parent(folder), " data.class_folders=leaf"
    else:
        place, name, deep = folder, holding[0], ""
    above = f"data.root={place} " if place != root else ""
    return (
        f"; if the folders in {storage.join(place, name)} are the classes, and there are no splits, set "
        f"{above}data.train={name} data.val=null{deep}"
    )
