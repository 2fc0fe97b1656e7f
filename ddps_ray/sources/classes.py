"""Which classes there are, and what the prompt calls each: the user's word, its ImageNet name, or its folder's name."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ddps_ray.errors import UserError
from ddps_ray.sources import folders
from ddps_ray.sources.listing import Classes

IMAGENET = "imagenet-1k"
"""In place of a CSV: the packaged table of ImageNet-1K's 1000 WordNet ids and names, in the order of their labels."""

_AGREE = 0.9  # share of 1000 names, in order, that makes a list ImageNet's; spellings of a few differ between copies
WNID = re.compile(r"n\d{8}")
"""A WordNet id, ImageNet's name of a class."""


def read(table: str) -> dict[str, str]:
    """Reads the user's names by class id from a CSV with a header: class id in the first column, name in the second.

    Args:
        table: Its path or URI, or `IMAGENET`.

    Returns:
        Names by class id, in the order of the lines.

    Raises:
        UserError: It cannot be read, or a line has no name, or a class has two lines.
    """
    if table == IMAGENET:
        return _imagenet()
    text = folders.read_text(table, "data.classes")
    named: dict[str, str] = {}
    rows = csv.reader(text.splitlines())
    next(rows, None)
    for row in rows:
        class_id, name, *_ = [*(cell.strip() for cell in row), "", ""]
        if not class_id:
            continue
        if not name:
            raise UserError(f"data.classes: {table}, line {rows.line_num}: no name for class {class_id}")
        if class_id in named:
            raise UserError(f"data.classes: {table}, line {rows.line_num}: a second name for class {class_id}")
        named[class_id] = name
    return named


def names(class_ids: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Names classes.

    Args:
        class_ids: Folder names.
        given: The user's names, which must have every class. Without them a WordNet id gets the first lemma of its
            ImageNet name, and any other folder its own name, with blanks for underscores.

    Returns:
        The name of each class id, in the order of `class_ids`.

    Raises:
        UserError: The user's names lack a class.
    """
    if given is None:
        return _default_names(list(class_ids))
    named = {}
    for class_id in class_ids:
        if class_id not in given:
            raise UserError(f"data.classes: no name for class {class_id} (the first line of the file is its header)")
        named[class_id] = given[class_id]
    return named


def ordered(class_ids: Iterable[str], given: Mapping[str, str] | None = None) -> Classes:
    """Returns classes that have no numbers of their own: a label is the index among the sorted class ids.

    Raises:
        UserError: The user's names lack a class.
    """
    texts = names(sorted(class_ids), given)
    return Classes(texts, {class_id: label for label, class_id in enumerate(texts)})


def numbered(
    root: str, used: Iterable[int], published: Sequence[str] | None, given: Mapping[str, str] | None
) -> Classes:
    """Returns the classes of a data set that numbers them itself.

    Args:
        root: The data set, for errors.
        used: The labels that its images have.
        published: The names that it comes with, in the order of the labels; ImageNet-1K's thousand become WordNet ids.
        given: The user's names. Where none are published, the n-th has label n, counted from 0.

    Returns:
        The classes that are used, by label.

    Raises:
        UserError: There are no names, or not for each label, or two classes would have the same id.
    """
    if published is not None:
        texts = _published(published)
        ids = list(texts)
        if given is not None:
            texts = names(ids, given)
    elif given is not None:
        texts, ids = dict(given), list(given)
    else:
        raise UserError(
            f"data.classes: {root} numbers its classes and does not name them: give a CSV with a header whose lines "
            f"have class id and name in the order of the labels, or {IMAGENET}"
        )
    labels = sorted(used)
    for label in labels:
        if not 0 <= label < len(ids):
            raise UserError(f"data: {root} has an image with label {label}; there are names for 0 to {len(ids) - 1}")
    return Classes({ids[label]: texts[ids[label]] for label in labels}, {ids[label]: label for label in labels})


def safe(name: str) -> str:
    """Returns a class name as a class id, which later is the name of a folder: no separators, no way up."""
    cleaned = "".join("_" if mark in "/\\" or not mark.isprintable() else mark for mark in name).strip()
    return cleaned if cleaned.strip(".") else "_" * max(1, len(cleaned))


def ambiguous(named: Mapping[str, str]) -> list[str]:
    """Returns, sorted, each name that several classes share, such as ImageNet's crane: their prompts are the same."""
    return sorted(text for text, classes in Counter(named.values()).items() if classes > 1)


def _default_names(class_ids: list[str]) -> dict[str, str]:
    lemmas = _wordnet([class_id for class_id in class_ids if WNID.fullmatch(class_id)])
    return {class_id: lemmas.get(class_id) or class_id.replace("_", " ").strip() or class_id for class_id in class_ids}


def _wordnet(wnids: list[str]) -> dict[str, str]:
    """Returns the first lemma of each WordNet id that timm knows, in ImageNet-1K or in the larger sets."""
    if not wnids:
        return {}
    from timm.data import ImageNetInfo  # takes seconds, so only where a folder looks like a WordNet id

    info = ImageNetInfo()
    lemmas = {}
    for wnid in wnids:
        try:
            lemmas[wnid] = info.label_name_to_description(wnid).split(",")[0].strip()
        except KeyError:
            continue
    return lemmas


def _imagenet() -> dict[str, str]:
    from timm.data import ImageNetInfo

    return _wordnet(list(ImageNetInfo().label_names()))


def _published(listed: Sequence[str]) -> dict[str, str]:
    """Returns the texts by class id of names that come with a data set."""
    if len(listed) == 1000 and (known := _as_imagenet(listed)):
        return known
    if all(WNID.fullmatch(name) for name in listed):
        return _default_names(list(listed))
    texts: dict[str, str] = {}
    for name in listed:
        class_id = safe(name)
        if class_id in texts:
            raise UserError(f"data: two of the data set's own classes are called {class_id!r}")
        texts[class_id] = name.replace("_", " ").strip() or class_id
    return texts


def _as_imagenet(listed: Sequence[str]) -> dict[str, str] | None:
    known = _imagenet()
    if list(listed) == list(known):
        return known
    first = [name.split(",")[0].strip().casefold() for name in listed]
    same = sum(name == lemma.casefold() for name, lemma in zip(first, known.values(), strict=True))
    return known if same >= _AGREE * len(known) else None
