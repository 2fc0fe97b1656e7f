"""Tiny ImageNet as its archive unpacks: `train/<wnid>/images`, `val/images`, names, and object boxes."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import advice, classes, folders, imagefolder, listing
from ddps_ray.sources.leftovers import Leftovers
from ddps_ray.sources.listing import PLAIN, Classes, Listing, Options

_IMAGES = "images"
_ANNOTATIONS = "val_annotations.txt"
Box = tuple[str, int, int, int, int]


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether a folder has the list of classes, and the training split's folder."""
    return folders.has(root, "wnids.txt") and splits[0] in folders.folders(root)


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
        splits: `train`, and `val` if it is wanted.
        names: The user's names of the classes; by default the first one of each in `words.txt`.
        ground_truth: Not used.
        options: Not used.

    Raises:
        UserError: A split is absent or has no labels, an image has no class, or a table cannot be read.
    """
    advice.check_splits(root, splits)
    ids = imagefolder.class_ids(root, splits[0])
    known = classes.ordered(ids, names if names is not None else _words(root, ids))
    tables: dict[str, pa.Table] = {}
    boxes: list[Box] = []
    left = Leftovers()
    for split in splits:
        tables[split], found = (
            _flat(root, split, known, left) if _is_flat(root, split) else _by_class(root, split, known, left)
        )
        boxes += found
    proper = [box for box in boxes if box[1] < box[3] and box[2] < box[4]]
    return Listing(tables, known.texts, left.count, listing.boxes(proper) if proper else None, left.notes())


def _is_flat(root: str, split: str) -> bool:
    """Whether a split's images are in one folder; scripts that sort them by class may leave it behind, empty.

    Raises:
        UserError: Some are, and some are not.
    """
    folder = storage.join(root, split)
    inner = folders.folders(folder)
    flat = _IMAGES in inner and any(map(folders.is_image, folders.files(storage.join(folder, _IMAGES))))
    if flat and len(inner) > 1:
        raise UserError(f"data: {folder} has images in {_IMAGES} and class folders, too: sort all of them, or none")
    return flat or inner == [_IMAGES]


def _words(root: str, class_ids: list[str]) -> dict[str, str]:
    place = storage.join(root, "words.txt")
    wanted = classes.names(class_ids)
    if storage.exists(place):
        for _, wnid, said, *_ in _lines(place):
            lemma = said.split(",")[0].strip()
            if wnid in wanted and lemma:
                wanted[wnid] = lemma
    return wanted


def _by_class(root: str, split: str, known: Classes, left: Leftovers) -> tuple[pa.Table, list[Box]]:
    ids = [class_id for class_id in imagefolder.class_ids(root, split) if class_id != _IMAGES]
    here = Leftovers()
    rows = imagefolder.list_split(root, split, ids, known, here, _IMAGES)
    del here.endings[".txt"]  # its own tables
    left.add(here)
    boxes: list[Box] = []
    for class_id in ids:
        place = storage.join(root, split, class_id, f"{class_id}_boxes.txt")
        if storage.exists(place):
            boxes += [_box(place, number, f"{split}/{class_id}", cells) for number, *cells in _lines(place)]
    table = storage.join(root, split, _ANNOTATIONS)
    return rows, boxes + (_annotated(table, split, known)[1] if storage.exists(table) else [])


def _flat(root: str, split: str, known: Classes, left: Leftovers) -> tuple[pa.Table, list[Box]]:
    folder, table = storage.join(root, split, _IMAGES), storage.join(root, split, _ANNOTATIONS)
    if not storage.exists(table):
        raise UserError(f"data: split {split!r} has no labels: there is no {table}")
    owners, boxes = _annotated(table, split, known)
    images = folders.images_in(folder, f"{split}/{_IMAGES}", left)
    for name in images:
        if name not in owners:
            raise UserError(f"data: {table} has no line for {name}")
    return folders.rows(split, folder, {name: owners[name] for name in images}, known), boxes


def _annotated(table: str, split: str, known: Classes) -> tuple[dict[str, str], list[Box]]:
    """Class of each image, and the boxes, by a split's table."""
    owners: dict[str, str] = {}
    boxes: list[Box] = []
    for number, name, class_id, *sides in _lines(table):
        if class_id not in known.labels:
            raise UserError(f"data: {table}, line {number}: class {class_id!r} is not in the training split")
        owners[name] = class_id
        if any(sides):
            boxes.append(_box(table, number, f"{split}/{class_id}", [name, *sides]))
    return owners, boxes


def _lines(uri: str) -> Iterator[tuple[int, str, str, str, str, str, str]]:
    """Yields the number and six cells of each line of a table with tabs, empty ones where it is shorter."""
    for number, line in enumerate(folders.read_text(uri, "data").splitlines(), 1):
        if line.strip():
            first, second, third, fourth, fifth, sixth, *_ = [*(cell.strip() for cell in line.split("\t")), *[""] * 6]
            yield number, first, second, third, fourth, fifth, sixth


def _box(uri: str, number: int, folder: str, cells: Sequence[str]) -> Box:
    """The box of a line of name, left, top, right and bottom, of which the last two are the last pixels inside."""
    name, *sides = cells
    try:
        left, top, right, bottom = (int(side) for side in sides[:4])
    except ValueError as error:
        raise UserError(f"data: {uri}, line {number}: the sides of a box are not four whole numbers") from error
    return f"{folder}/{name}", left, top, right + 1, bottom + 1
