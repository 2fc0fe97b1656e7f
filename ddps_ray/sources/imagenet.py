"""ILSVRC 2012 as its archives unpack: `train/<wnid>/*.JPEG`, a flat `val/*.JPEG`, a file of its classes."""

import io
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import advice, classes, folders, imagefolder
from ddps_ray.sources.leftovers import Leftovers
from ddps_ray.sources.listing import PLAIN, WNID, Classes, Listing, Options

USUAL = (
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
)
"""What files of true classes are called, in the root; where there is none, `data.ground_truth` names it."""

_KEY = "data.ground_truth"
_META = "meta.mat"


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether the training images are in folders by WordNet id, and those of another split in no class folders."""
    train, *others = [split for split in splits if split in folders.folders(root)] or [""]
    if train != splits[0] or not any(map(WNID.fullmatch, _inner(root, train))):
        return False
    return any(not _inner(root, split) and _has_images(root, split) for split in others)


def list_images(
    root: str,
    splits: Sequence[str],
    names: Mapping[str, str] | None = None,
    ground_truth: str | None = None,
    options: Options = PLAIN,
) -> Listing:
    """Lists a data set; the label of a class is its index among the sorted class ids of the first split.

    Args:
        root: Folder or URI.
        splits: Names of the split folders, the training split, which has class folders, first.
        names: The user's names of the classes; see `classes.names`.
        ground_truth: File of the classes of a split without class folders: a line an image of name and WordNet id, or a
            WordNet id a line in the order of the sorted names, or the development kit's file of numbers with its
            `meta.mat` beside it. By default one of `USUAL` in the root.
        options: Not used.

    Raises:
        UserError: A split is absent, or its images and the lines of the file do not belong together.
    """
    advice.check_splits(root, splits)
    known = classes.ordered(imagefolder.class_ids(root, splits[0]), names)
    tables, left = {}, Leftovers()
    for split in splits:
        if ids := _inner(root, split):
            tables[split] = imagefolder.list_split(root, split, ids, known, left)
        else:
            tables[split] = _flat(root, split, known, ground_truth, left)
    return Listing(tables, known.texts, left.count, notes=left.notes())


def _inner(root: str, split: str) -> list[str]:
    return folders.folders(storage.join(root, split))


def _has_images(root: str, split: str) -> bool:
    return any(map(folders.is_image, folders.files(storage.join(root, split))))


def _flat(root: str, split: str, known: Classes, ground_truth: str | None, left: Leftovers) -> pa.Table:
    folder = storage.join(root, split)
    images = folders.images_in(folder, split, left)
    table = ground_truth or _usual(root, split)
    owners = _owners(table, images)
    for name in images:
        if owners[name] not in known.labels:
            raise UserError(f"{_KEY}: {table}: {name} is of class {owners[name]}, which the training split lacks")
    return folders.rows(split, folder, {name: owners[name] for name in images}, known)


def _usual(root: str, split: str) -> str:
    for name in USUAL:
        if storage.exists(storage.join(root, name)):
            return storage.join(root, name)
    raise UserError(
        f"{_KEY}: {storage.join(root, split)} has no class folders, and {root} no {USUAL[0]} or the like: "
        "name the file that says each image's class"
    )


def _owners(table: str, images: list[str]) -> dict[str, str]:
    """Class of each image, by what the file says."""
    lines = [re.split(r"[,\s]+", line.strip()) for line in folders.read_text(table, _KEY).splitlines() if line.strip()]
    if lines and len(lines[0]) > 1:
        header = WNID.fullmatch(lines[0][1]) is None and not lines[0][1].isdigit()
        return _by_name(table, lines[1:] if header else lines, images)
    return dict(zip(images, _in_order(table, [line[0] for line in lines], len(images)), strict=True))


def _by_name(table: str, lines: list[list[str]], images: list[str]) -> dict[str, str]:
    by_stem = {_stem(name): name for name in images}
    owners: dict[str, str] = {}
    for name, class_id, *_ in ([*line, ""] for line in lines):
        image = by_stem.get(_stem(name))
        if image is None:
            raise UserError(f"{_KEY}: {table} has {name}, which is not among the images")
        if not WNID.fullmatch(class_id):
            raise UserError(f"{_KEY}: {table}: {name} has {class_id!r}, which is no WordNet id")
        if owners.setdefault(image, class_id) != class_id:
            raise UserError(f"{_KEY}: {table} has two classes for {name}")
    for name in images:
        if name not in owners:
            raise UserError(f"{_KEY}: {table} has no line for {name}")
    return owners


def _stem(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot and folders.is_image(dot + ending) else name


def _in_order(table: str, lines: list[str], count: int) -> list[str]:
    """Class ids of the images in the order of their names."""
    if len(lines) != count:
        raise UserError(f"{_KEY}: {table} has {len(lines)} lines for {count} images")
    if all(map(WNID.fullmatch, lines)):
        return lines
    if not all(line.isdigit() for line in lines):
        number, odd = next((n, line) for n, line in enumerate(lines, 1) if not WNID.fullmatch(line))
        raise UserError(f"{_KEY}: {table}, line {number}: {odd!r} is no WordNet id")
    # Numbers may count the classes in the order of the devkit or in that of the WordNet ids: only its own table tells.
    wnids = _devkit(table)
    for line in lines:
        if int(line) not in wnids:
            raise UserError(f"{_KEY}: {table}: there is no class {line} in {_META}")
    return [wnids[int(line)] for line in lines]


def _devkit(table: str) -> dict[int, str]:
    """WordNet id of each ILSVRC2012_ID, from the development kit's own table."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    folder = table.rpartition("/")[0]
    base, mark, query = table.partition("?")
    if "://" in table:
        folder = base.rpartition("/")[0] + mark + query
    place = storage.join(folder, _META)
    if not storage.exists(place):
        raise UserError(f"{_KEY}: {table} has numbers, which only the development kit's {_META} beside it explains")
    try:
        synsets = loadmat(io.BytesIO(storage.read_bytes(place)), squeeze_me=True)["synsets"]
        return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    except (OSError, KeyError, IndexError, ValueError, TypeError, MatReadError) as error:
        raise UserError(f"{_KEY}: {place} is not the development kit's table of synsets") from error
