"""What each layout gives: the images of a data set as manifest rows, checked before anything is written."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ddps_ray import schemas, uris
from ddps_ray.errors import UserError
from ddps_ray.sources import locators

BOXES_FILE = "boxes.csv"
"""Where `index` puts the boxes that come with a data set, in the run directory; the report looks there."""

BOXES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("left", pa.int32(), nullable=False),  # pixels of the original image
        pa.field("top", pa.int32(), nullable=False),
        pa.field("right", pa.int32(), nullable=False),  # exclusive, as is bottom
        pa.field("bottom", pa.int32(), nullable=False),
    ]
)


WNID = re.compile(r"n\d{8}")
"""A WordNet id, ImageNet's name of a class."""

LONGEST = 255
"""Bytes, in UTF-8, that the name of a file or folder may have."""

_LARGEST_LABEL = 2**31 - 1

_UNFIT_CLASS = r"^\.{0,2}$|[/\\\p{Cc}]"
"""Class ids that cannot be a folder's name: a distilled set has a folder of each class, which is removed and made."""

_UNFIT_IMAGE = r"(^|/)\.\.(/|$)|\p{Cc}"


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        texts: What the prompt calls each class id, in the order of the labels.
        labels: The label of each class id.
        wnids: The WordNet id of each class id that has one and is none itself.
    """

    texts: dict[str, str]
    labels: dict[str, int]
    wnids: Mapping[str, str] = field(default_factory=dict)

    def wnid(self, class_id: str) -> str | None:
        """The WordNet id of a class, where it is known."""
        return self.wnids.get(class_id, class_id if WNID.fullmatch(class_id) else None)


@dataclass(frozen=True)
class Options:
    """How to read a data set that could be read in several ways; see the section `data` of a recipe.

    Attributes:
        class_folders: Whether a class is a folder at the top of a split, or each that directly holds images.
        image_column: Column of the images in Parquet files, or ending of the images in tar files.
        label_column: Column of the labels in Parquet files, or their key in the `.json` files of tar files.
    """

    class_folders: Literal["top", "leaf"] = "top"
    image_column: str | None = None
    label_column: str | None = None


PLAIN = Options()
"""As a data set that can be read in one way only."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set.

    Attributes:
        splits: Rows of `schemas.MANIFEST` by split; a class lies together where the data set's own order allows.
        class_texts: The name of each class id, in the order of the labels.
        skipped: Files, or members of files, that are not images of the splits; hidden ones do not count.
        boxes: Rows of `BOXES`, true object boxes, if the data set comes with some.
        notes: What the user should know, a line each.
    """

    splits: dict[str, pa.Table]
    class_texts: dict[str, str]
    skipped: int
    boxes: pa.Table | None = None
    notes: tuple[str, ...] = field(default=())


def rows(split: str, image_ids: Any, uris: Any, class_ids: Any, known: Classes) -> pa.Table:
    """Builds rows of `schemas.MANIFEST` column by column.

    Args:
        split: The split that all of them are of.
        image_ids: Their ids: an Arrow array, or what makes one.
        uris: Where they are.
        class_ids: Their classes, all of them known.
        known: The classes.

    Raises:
        UserError: A label is no whole number from 0 to 2**31-1.
    """
    unfit = next((label for label in known.labels.values() if not 0 <= label <= _LARGEST_LABEL), None)
    if unfit is not None:
        raise UserError(f"data: label {unfit} cannot be used: labels must be whole numbers from 0 to 2**31-1")
    ids, places, owners = (_column(values) for values in (image_ids, uris, class_ids))
    index = pc.index_in(owners, value_set=pa.array(list(known.texts), pa.string()))
    texts = pa.array(list(known.texts.values()), pa.string()).take(index)
    labels = pa.array([known.labels[class_id] for class_id in known.texts], pa.int32()).take(index)
    same = pa.repeat(pa.scalar(split, pa.string()), len(ids))
    wnids = pa.array([known.wnid(class_id) for class_id in known.texts], pa.string()).take(index)
    table = pa.table([ids, places, owners, texts, labels, same, wnids], schema=schemas.MANIFEST)
    return schemas.check(table, schemas.MANIFEST)


def check(listing: Listing) -> Listing:
    """Returns a listing unchanged if later stages can rely on it.

    Raises:
        UserError: A split is empty, which the notes may explain; an id is empty, too long, not unique, or leads out of
            a folder; or a later split has a class that the first one, the training split, lacks.
    """
    trained: set[str] | None = None
    for split, table in listing.splits.items():
        if not table.num_rows:
            raise UserError("; ".join([f"data: split {split!r} has no images", *listing.notes]))
        classes = table["class_id"].unique()
        _check_classes(classes)
        _check_ids(table)
        class_ids = set(classes.to_pylist())
        trained = class_ids if trained is None else trained
        if lacking := sorted(class_ids - trained):
            raise UserError(f"data: split {split!r} has class {lacking[0]}, of which the training split has no images")
    return listing


def apart(listing: Listing) -> Listing:
    """Gives the images of a split ids by file and place in it, where files name several images alike.

    Such are shards that all count from 0, and rows that are all called `image.jpg`. What is no part of a file keeps its
    id, and so do the images of all other splits.
    """
    splits, notes = dict(listing.splits), list(listing.notes)
    for split, table in listing.splits.items():
        double = pc.count_distinct(table["image_id"]).as_py() < table.num_rows
        found = [locators.parse(uri) for uri in table["uri"].to_pylist()] if double else []
        if not double or any(each.kind is None for each in found):
            continue
        counts: Counter[str] = Counter()
        image_ids = []
        for class_id, each in zip(table["class_id"].to_pylist(), found, strict=True):
            number = each.start if each.kind == "row" else counts[each.uri]
            counts[each.uri] += 1
            image_ids.append(f"{split}/{class_id}/{_stem(each.uri)}-{number}")
        place = table.schema.get_field_index("image_id")
        splits[split] = table.set_column(place, table.schema.field(place), _column(image_ids))
        notes.append(f"images of {split} have the same names: their ids are their files and places in them instead")
    return replace(listing, splits=splits, notes=tuple(notes))


def _stem(uri: str) -> str:
    path = uris.parse(uri).path if uris.is_uri(uri) else uri
    return PurePosixPath(path).stem


def _check_classes(classes: Any) -> None:
    if (unfit := _first(classes, _UNFIT_CLASS)) is not None:
        raise UserError(
            f"data: class id {unfit!r} cannot be a folder's name: it is empty, . or .., or has /, \\ or a control "
            "character"
        )
    for class_id in classes.to_pylist():
        if (size := len(class_id.encode())) > LONGEST:
            raise UserError(
                f"data: class id {class_id[:40]!r}… cannot be a folder's name: it has {size} bytes, over {LONGEST}"
            )


def _check_ids(table: pa.Table) -> None:
    ids = table["image_id"]
    if pc.any(pc.equal(ids, "")).as_py():
        raise UserError("data: an image's id is empty")
    if (unfit := _first(ids, _UNFIT_IMAGE)) is not None:
        raise UserError(f"data: image id {unfit!r} has a part .. or a control character")
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids.combine_chunks())
    double = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0]
    where = table.filter(pc.equal(ids, double))["uri"].slice(0, 2).to_pylist()
    raise UserError(f"data: two images have the id {double.as_py()}: {' and '.join(where)}")


def _first(values: Any, pattern: str) -> str | None:
    """The first of the texts in which a pattern is found."""
    place = pc.index(pc.match_substring_regex(values, pattern), True).as_py()
    return None if place < 0 else str(values[place].as_py())


def boxes(found: Iterable[tuple[str, int, int, int, int]]) -> pa.Table:
    """Builds rows of `BOXES` from image_id, left, top, right, bottom."""
    columns: Mapping[str, list[Any]] = {name: [] for name in BOXES.names}
    for box in found:
        for name, value in zip(BOXES.names, box, strict=True):
            columns[name].append(value)
    return schemas.table(dict(columns), BOXES)


def _column(values: Any) -> pa.ChunkedArray:
    if isinstance(values, pa.ChunkedArray):
        return values.cast(pa.string())
    return pa.chunked_array([pa.array(values, pa.string())])
