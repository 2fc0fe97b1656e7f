"""What the prompt calls a class: the user's word for it, its ImageNet name, or the name of its folder."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from ddps_ray import storage
from ddps_ray.errors import UserError

_WNID = re.compile(r"n\d{8}")


def read(table: str) -> dict[str, str]:
    """Reads the user's names by class id from a CSV with a header: class id in the first column, name in the second.

    Raises:
        UserError: It cannot be read, or a line has no name, or another name for the same class.
    """
    try:
        text = storage.read_bytes(table).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"data.classes: {table} cannot be read: {str(error).splitlines()[0]}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"data.classes: {table} is not UTF-8 text") from error
    named: dict[str, str] = {}
    rows = csv.reader(text.splitlines())
    next(rows, None)
    for row in rows:
        class_id, name, *_ = [*(cell.strip() for cell in row), "", ""]
        if not class_id:
            continue
        if not name:
            raise UserError(f"data.classes: {table}, line {rows.line_num}: no name for class {class_id}")
        if named.setdefault(class_id, name) != name:
            raise UserError(f"data.classes: {table}, line {rows.line_num}: a second name for class {class_id}")
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


def ambiguous(named: Mapping[str, str]) -> list[str]:
    """Returns, sorted, each name that several classes share, such as ImageNet's crane: their prompts are the same."""
    return sorted(text for text, classes in Counter(named.values()).items() if classes > 1)


def _default_names(class_ids: list[str]) -> dict[str, str]:
    lemmas = _wordnet([class_id for class_id in class_ids if _WNID.fullmatch(class_id)])
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
