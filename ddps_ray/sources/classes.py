"""Which classes there are, and what the prompt calls each: the user's word, its ImageNet name, or its folder's name."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ddps_ray.errors import UserError
from ddps_ray.sources import folders, tables, wordnet
from ddps_ray.sources.listing import LONGEST, WNID, Classes
from ddps_ray.sources.tables import Table

IMAGENET = "imagenet-1k"
"""In place of a table: the packaged one of ImageNet-1K's 1000 WordNet ids and names, in the order of their labels."""

_AGREE = 0.9  # share of 1000 names, in order, that makes a list ImageNet's; spellings of a few differ between copies
_DIGEST = 16

Given = Mapping[str, str] | None
"""What the user calls the classes: a `Table`, or plain names that have no header."""


def read(table: str) -> Table:
    """Reads the user's table of classes; see `tables.parse`.

    Args:
        table: Its path or URI, or `IMAGENET`.

    Raises:
        UserError: It cannot be read, or a line is not as it should be.
    """
    if table == IMAGENET:
        return Table(wordnet.lemmas(wordnet.imagenet()), IMAGENET)
    return tables.parse(table, folders.read_text(table, tables.KEY))


def names(class_ids: Iterable[str], given: Given = None) -> dict[str, str]:
    """Names classes.

    Args:
        class_ids: Folder names.
        given: The user's names, which must have every class; `IMAGENET`'s has it by its WordNet id or by its name
            (see `wordnet.matched`). Without them a WordNet id gets the first lemma of its ImageNet name, and any other
            folder its own name, with blanks for underscores.

    Returns:
        The name of each class id, in the order of `class_ids`.

    Raises:
        UserError: The user's names lack a class.
    """
    return named(class_ids, given).texts


def named(class_ids: Iterable[str], given: Given) -> Classes:
    """Returns classes with names and WordNet ids, each labelled by its place; arguments and errors as in `names`."""
    ids = list(class_ids)
    if given is None:
        return Classes(_default_names(ids), _counted(ids), _wnids(ids))
    table = Table.of(given)
    if _is_packaged(table):
        wnids = dict(zip(ids, wordnet.matched(wnid_in(each) or each for each in ids).values(), strict=True))
        texts = {class_id: table[wnid] for class_id, wnid in wnids.items()}
        return Classes(texts, _counted(ids), {each: wnid for each, wnid in wnids.items() if each != wnid})
    for class_id in ids:
        if class_id not in table:
            _refuse(table, class_id)
    return Classes({class_id: table[class_id] for class_id in ids}, _counted(ids), _wnids(ids, table))


def ordered(class_ids: Iterable[str], given: Given = None, texts: Mapping[str, str] | None = None) -> Classes:
    """Returns classes that have no numbers of their own: a label is the index among the sorted class ids.

    Args:
        class_ids: Their ids.
        given: The user's names; see `names`.
        texts: What they are called where the user gives no names; by default as `names` has it.

    Raises:
        UserError: The user's names lack a class.
    """
    ids = sorted(class_ids)
    if given is None and texts is not None:
        return Classes({class_id: texts[class_id] for class_id in ids}, _counted(ids), _wnids(ids))
    return named(ids, given)


def of_labels(root: str, tags: Mapping[str, Iterable[str]], given: Given) -> Classes:
    """Returns the classes of a data set whose labels are text: each label, made `safe`, is a class id.

    Args:
        root: The data set, for errors.
        tags: The labels of each split, the training split first.
        given: The user's names; see `names`.

    Raises:
        UserError: Two labels would be one class, a later split has a class that the first one lacks, or the user's
            names lack one.
    """
    meant: dict[str, str] = {}
    every: dict[str, set[str]] = {}
    for split, found in tags.items():
        every[split] = set()
        for tag in found:
            class_id = safe(tag)
            every[split].add(class_id)
            if meant.setdefault(class_id, tag) != tag:
                raise UserError(f"data: {root}: the labels {meant[class_id]!r} and {tag!r} would both be {class_id!r}")
    train, *others = every
    for split in others:
        if lacking := sorted(every[split] - every[train]):
            raise UserError(f"data: {root}: {split!r} has class {lacking[0]}, which the training split does not have")
    return ordered(every[train], given)


def numbered(root: str, used: Iterable[int], published: Sequence[str] | None, given: Given) -> Classes:
    """Returns the classes of a data set that numbers them itself.

    Args:
        root: The data set, for errors.
        used: The labels that its images have.
        published: The names that it comes with, in the order of the labels; ImageNet-1K's thousand become WordNet ids,
            and so do any where the user gives `IMAGENET`.
        given: The user's names. Where none are published, the n-th has label n, counted from 0, or the label that is
            its class id.

    Returns:
        The classes that are used, by label.

    Raises:
        UserError: There are no names, or not for each label, or two classes would have the same id.
    """
    labels = sorted(used)
    if published is None:
        if given is None:
            raise UserError(
                f"{tables.KEY}: {root} numbers its classes and does not name them: give a CSV whose lines have class "
                f"id and name in the order of the labels, or {IMAGENET}"
            )
        return _by_position(root, labels, Table.of(given))
    texts = _published(published)
    ids = list(texts)
    for label in labels:
        if not 0 <= label < len(ids):
            raise UserError(_beyond(root, label, len(ids)))
    if given is None:
        own = {ids[label]: label for label in labels}
        return Classes({class_id: texts[class_id] for class_id in own}, own, _wnids(own))
    table = Table.of(given)
    if _is_packaged(table):
        wnids = wordnet.matched(_wnid_or_name(ids[label], published[label]) for label in labels)
        ids_by_label = dict(zip(labels, wnids.values(), strict=True))
    else:
        ids_by_label = {label: ids[label] for label in labels}
    found = named(ids_by_label.values(), table)
    return Classes(found.texts, {class_id: label for label, class_id in ids_by_label.items()}, found.wnids)


def safe(name: str) -> str:
    """Returns a class name as a class id, which later is the name of a folder: no separators, no way up, not too long.

    What is too long is cut, and gets a digest of the whole behind.
    """
    cleaned = "".join("_" if mark in "/\\" or not mark.isprintable() else mark for mark in name).strip()
    cleaned = cleaned if cleaned.strip(".") else "_" * max(1, len(cleaned))
    if len(cleaned.encode()) <= LONGEST:
        return cleaned
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{cleaned.encode()[: LONGEST - _DIGEST - 1].decode(errors='ignore')}-{digest}"


def ambiguous(named: Mapping[str, str]) -> list[str]:
    """Returns, sorted, each name that several classes share, such as ImageNet's crane: their prompts are the same."""
    return sorted(text for text, classes in Counter(named.values()).items() if classes > 1)


_GENERIC = re.compile(
    "class|klasse|classe|clase|cls|класс|category|kategorie|categorie|categoria|categoría|категория|"
    "label|lbl|id|idx|index|type|kind|"
    "group|grp|cluster|folder|dir|directory|object|obj|item|subject|subj|sub|sample|species|target|number|num|no|nr|"
    "img|image|images|set|new|unnamed|untitled|synset"
)
"""Words that, with a number, stand for a name that is not there."""

_CODE = re.compile(r"[\W\d_]+|[a-zA-Z]|[a-z]-?\d+|[A-Z]\d{1,2}|n\d{8}")
_LONG_CODE = re.compile(
    rf"({_GENERIC.pattern})[^a-z]*\d|(?=.*\d)[\da-f]{{6,}}|[\da-f]{{8}}(-[\da-f]{{4}}){{3}}-[\da-f]{{12}}|"
    "nan|null|none|undefined"
)
_WITH_WNID = re.compile(rf"(?P<wnid>{WNID.pattern})[-_](?P<rest>.*[^\W\d_].*)")
_WITH_NUMBER = re.compile(r"\d+[-_. ]+(?P<rest>[^\W\d_].*)")
_BETWEEN = re.compile(r"[\s_.,:;/()\[\]#]+")


def nameless(texts: Iterable[str]) -> list[str]:
    """Returns, in their order, those names of classes that are none: numbers, codes, or words such as `class 07`.

    A prompt with such a name says nothing of what is in the image.
    """
    return [text for text in texts if _is_nameless(text)]


def _is_nameless(text: str) -> bool:
    words = [word for word in _BETWEEN.split(text) if word]
    others = [word for word in words if not _is_code(word)]
    return len(others) < max(1, len(words)) and all(_GENERIC.fullmatch(word.casefold()) for word in others)


def _is_code(word: str) -> bool:
    """Says whether a word is a number, a single letter, or what a program makes up."""
    digits = sum(mark.isdigit() for mark in word)
    mostly = word.isascii() and word.isalnum() and len(word) >= 6 and 2 * digits > len(word)
    return mostly or bool(_CODE.fullmatch(word) or _LONG_CODE.fullmatch(word.casefold()))


def _counted(ids: Sequence[str]) -> dict[str, int]:
    return {class_id: label for label, class_id in enumerate(ids)}


def _wnids(ids: Iterable[str], table: Table | None = None) -> dict[str, str]:
    """The WordNet ids that a table has for classes, or that begin their ids."""
    known = {} if table is None else table.wnids
    found = {class_id: known.get(class_id) or wnid_in(class_id) for class_id in ids}
    return {class_id: wnid for class_id, wnid in found.items() if wnid and wnid != class_id}


def _refuse(table: Table, class_id: str) -> None:
    """Raises UserError for a class that a table lacks."""
    if class_id == table.header:
        raise UserError(
            f"{tables.KEY}: the first line of {table.place} begins with {class_id!r}, which is a class and could be a "
            "header as well: put another header, such as class_id,name, above it"
        )
    first = next(iter(table), None)
    there = f"; it has {len(table)} lines, the first of them for {first!r}" if first is not None else ""
    raise UserError(f"{tables.KEY}: no name for class {class_id} in {table.place}{there}")


def _is_packaged(table: Table) -> bool:
    return table.place == IMAGENET


def _by_position(root: str, labels: Sequence[int], table: Table) -> Classes:
    """Classes of a data set that numbers them, by the lines of a table: the one reading of it that fits the labels."""
    readings = _readings(table)
    fitting = [ids for ids in readings if _misfit(root, labels, ids, table) is None]
    if not fitting:
        raise UserError(str(_misfit(root, labels, readings[0], table)))
    if len(fitting) > 1:
        first = next(iter(table))
        doubt = (
            f"the first line, {first!r}, could be a header or a class: put the header class_id,name above it, or make "
            "it one"
            if table.unsure
            else f"its lines are numbered from {first}, and the labels could count from 0: give 0 a line, too"
        )
        raise UserError(f"{tables.KEY}: {table.place}: {doubt}")
    ids = {label: fitting[0][label] for label in labels}
    texts = {class_id: table[class_id] for class_id in ids.values()}
    return Classes(texts, {class_id: label for label, class_id in ids.items()}, _wnids(texts, table))


def _readings(table: Table) -> list[dict[int, str]]:
    """Class ids by label, in each way in which a table can be read."""
    ids = list(table)
    by_place = dict(enumerate(ids))
    if all(class_id.isdecimal() for class_id in ids):
        by_number = {int(class_id): class_id for class_id in ids}
        if len(by_number) < len(ids):  # such as 1 and 01
            return [by_place]
        return [by_number] if 0 in by_number else [by_number, by_place]
    return [by_place, dict(enumerate(ids[1:]))] if table.unsure else [by_place]


def _misfit(root: str, labels: Sequence[int], ids: Mapping[int, str], table: Table) -> str | None:
    """Says why a data set with these labels cannot have these classes."""
    for label in labels:
        if label not in ids:
            if ids.keys() == set(range(len(ids))):
                return _beyond(root, label, len(ids))
            return f"data: {root} has an image with label {label}, for which {table.place} has no line"
    if list(labels) == list(range(len(labels))) and len(ids) != len(labels):
        remedy = "give a table of the data set's own classes, " if _is_packaged(table) else "give "
        return (
            f"{tables.KEY}: {table.place} has {len(ids)} lines, and {root} the labels 0 to {len(labels) - 1}: "
            f"which line is whose cannot be known; {remedy}a line a label, in the order of the labels"
        )
    return None


def _beyond(root: str, label: int, count: int) -> str:
    return f"data: {root} has an image with label {label}; there are names for 0 to {count - 1}"


def _default_names(class_ids: Sequence[str]) -> dict[str, str]:
    lemmas = wordnet.lemmas(class_id for class_id in class_ids if WNID.fullmatch(class_id))
    bare = _bare(class_ids)
    return {class_id: lemmas.get(class_id) or in_words(bare[class_id]) for class_id in class_ids}


def wnid_in(class_id: str) -> str | None:
    """The WordNet id that a class id is, or begins with, such as `n02085620-Chihuahua`."""
    found = _WITH_WNID.fullmatch(class_id)
    return class_id if WNID.fullmatch(class_id) else found["wnid"] if found else None


def _bare(names: Sequence[str]) -> dict[str, str]:
    """What folders are called without a WordNet id in front, or without the numbers that all of them begin with."""
    found = {name: _WITH_WNID.fullmatch(name) for name in names}
    if not any(found.values()):
        numbers = {name: _WITH_NUMBER.fullmatch(name) for name in names}
        rests = {match["rest"].casefold() for match in numbers.values() if match}
        # Of one folder, or where the rests are the same, the number may be a part of the name: 2_door, 4_door.
        found = numbers if len(rests) == len(numbers) > 1 else found
    return {name: match["rest"] if match else name for name, match in found.items()}


def in_words(name: str) -> str:
    """A folder's name with blanks for underscores."""
    return name.replace("_", " ").strip() or name


def _wnid_or_name(class_id: str, name: str) -> str:
    return wnid_in(class_id) or name


def _published(listed: Sequence[str]) -> dict[str, str]:
    """Returns the texts by class id of names that come with a data set."""
    if len(listed) == 1000 and (known := _as_imagenet(listed)):
        return known
    texts: dict[str, str] = {}
    words = _default_names(listed)
    for name in listed:
        class_id = safe(name)
        if class_id in texts:
            raise UserError(f"data: two of the data set's own classes are called {class_id!r}")
        texts[class_id] = words[name] or class_id
    return texts


def _as_imagenet(listed: Sequence[str]) -> dict[str, str] | None:
    known = wordnet.lemmas(wordnet.imagenet())
    if list(listed) == list(known):
        return known
    first = [name.split(",")[0].strip().casefold() for name in listed]
    same = sum(name == lemma.casefold() for name, lemma in zip(first, known.values(), strict=True))
    return known if same >= _AGREE * len(known) else None
