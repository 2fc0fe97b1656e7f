"""The user's table of classes: a line each of class id, name, and perhaps WordNet id, however they are separated."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ddps_ray.errors import UserError
from ddps_ray.sources.listing import WNID

KEY = "data.classes"
"""The setting that names it, for errors."""

_SEPARATORS = "\t,;|"
_BLANK = re.compile(r"(?P<first>n\d{8}|\d+) +(?P<rest>[^\s,;|].*)")
_INDEX = re.compile(r"\d+ +\S")
_SHAPE = "a line a class: class id, name and, if there is one, WordNet id, separated by comma, tab, semicolon or |"
_ID_WORD = re.compile(
    "ids?|class(es|id|no|name)?|klasse|classe|clase|cls|code|(folder|dir)(name)?|directory|key|index|idx|no|nr|num|number|"
    "labels?(id)?|wnids?|synsets?(id)?|wordnet(id)?|category(id)?|target|species|breed|taxon(id)?|type|tag|name"
)
_WNID_WORD = re.compile("wnids?|synset(id)?|wordnet(id)?|imagenetid")
_NAME_WORDS = tuple(
    map(
        re.compile, ("((class|label|category|display)?names?)", "text|label|title|words?|lemmas?|prompt", "description")
    )
)
"""What a header calls the column of the names, the likeliest first."""
_WHOLE = re.compile(r"[-+]?\d+(\.0*)?")
_SERIES = "0"  # pandas' own name for a column without one


@dataclass(frozen=True, eq=False)
class Table(Mapping[str, str]):
    """Names by class id, in the order of the lines.

    Attributes:
        names: The names.
        place: What the user calls it.
        wnids: WordNet ids by class id, of the lines that have one.
        header: First cell of the line that was taken for the header, if one was.
        unsure: Whether the first of the names may be a header.
    """

    names: Mapping[str, str]
    place: str = "the table"
    wnids: Mapping[str, str] = field(default_factory=dict)
    header: str | None = None
    unsure: bool = False

    def __getitem__(self, class_id: str) -> str:
        """Name of a class."""
        return self.names[class_id]

    def __iter__(self) -> Iterator[str]:
        """Class ids in the order of the lines."""
        return iter(self.names)

    def __len__(self) -> int:
        """Number of lines, without one that surely is a header."""
        return len(self.names)

    @classmethod
    def of(cls, names: Mapping[str, str]) -> "Table":
        """Takes plain names for a table; a table is returned as it is."""
        return names if isinstance(names, Table) else cls(names)


@dataclass(frozen=True)
class _Line:
    number: int
    cells: list[str]

    def cell(self, place: int) -> str:
        return self.cells[place] if place < len(self.cells) else ""


@dataclass(frozen=True)
class _Columns:
    name: int
    wnid: int | None
    most: int  # cells that a line may have


def parse(place: str, text: str) -> Table:
    """Reads a table.

    The first line is a header where its first cell and another one are usual words for that, or a cell is of another
    kind than all below it; a WordNet id or a number is a class. Otherwise the table is `unsure`, and the data set must
    tell.

    Args:
        place: What the user calls it.
        text: Its text.

    Raises:
        UserError: It has no lines of class id and name, a line has no class id, no name or more cells than it should,
            the names are numbers, or two lines have the same class or WordNet id.
    """
    if text.lstrip()[:1] in ("{", "["):
        raise UserError(f"{KEY}: {place} is JSON: give {_SHAPE}")
    lines = _lines(place, text)
    if not lines:
        raise UserError(f"{KEY}: {place} has no lines: give {_SHAPE}")
    header, unsure = _header(*lines)
    if not header:
        return _collected(place, lines, _by_contents(lines), unsure=unsure)
    first, *lines = lines
    if not lines:
        raise UserError(f"{KEY}: {place} has a header and no lines: give {_SHAPE}")
    name, wnid = _by_header(first, lines)
    columns = _Columns(name, wnid, max(len(first.cells), (wnid or 1) + 1))
    return _collected(place, lines, columns, header=first.cell(0))


def _lines(place: str, text: str) -> list[_Line]:
    """Splits the lines into cells, by the separator that splits most of them, and leaves the shortest first cells."""
    rows = [(number, line.strip(" ")) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    split = [_split(rows, mark) for mark in _SEPARATORS]
    best = max(split, key=lambda lines: (_pairs(lines), -sum(len(line.cell(0)) for line in lines)))
    best = _by_blank(rows) or best
    if rows and not _pairs(best):
        raise UserError(f"{KEY}: {place} has one column: give {_SHAPE}")
    return _with_ids(place, [line for line in best if any(line.cells)])


def _with_ids(place: str, lines: list[_Line]) -> list[_Line]:
    """Raises UserError where a line has no class id; only a header may have none, as pandas writes its index."""
    for number, line in enumerate(lines):
        if not line.cell(0) and (number or not _is_header_of_index(*lines)):
            raise UserError(f"{KEY}: {place}, line {line.number}: no class id for {next(filter(None, line.cells))!r}")
    return lines


def _is_header_of_index(first: _Line, *others: _Line) -> bool:
    said = [cell for cell in first.cells if cell]
    return all(_is_code(line.cell(0)) for line in others) or all(cell == _SERIES or _is_word(cell) for cell in said)


def _split(rows: Sequence[tuple[int, str]], mark: str) -> list[_Line]:
    return [_Line(number, [_bare(cell) for cell in _cells(line, mark)]) for number, line in rows]


def _cells(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error:  # a quote that is not closed, or not for a separator
        return [line]


def _bare(cell: str) -> str:
    """A cell without blanks around it, and without single quotes, which csv takes for a part of it."""
    cell = cell.strip()
    return cell[1:-1].strip() if len(cell) > 1 and cell[0] == cell[-1] == "'" else cell


def _pairs(lines: Sequence[_Line]) -> int:
    return sum(len(line.cells) > 1 for line in lines)


def _by_blank(rows: Sequence[tuple[int, str]]) -> list[_Line] | None:
    """Lines of a WordNet id or a number, a blank, and a name with whatever is in it, as ImageNet's own lists are."""
    found = [(number, _BLANK.fullmatch(line)) for number, line in rows]
    lines = [_Line(number, [match["first"], match["rest"].strip('"')]) for number, match in found if match]
    codes = [line.cell(0) for line in lines]
    if not codes or len(lines) < len(rows) - 1 or (len(lines) < len(rows) and found[0][1] is not None):
        return None
    if not all(map(WNID.fullmatch, codes)) and not _counts(codes):
        return None
    if len(lines) < len(rows):
        number, line = rows[0]
        lines.insert(0, _Line(number, line.split(maxsplit=1)))
    return lines


def _counts(codes: Sequence[str]) -> bool:
    """Whether numbers count on by one; those of names, such as `5 dollars`, do not."""
    numbers = [int(code) for code in codes if code.isdecimal()]
    return numbers in (list(range(len(codes))), list(range(1, len(codes) + 1)))


def _header(first: _Line, *others: _Line) -> tuple[bool, bool]:
    """Says whether the first line is a header, and whether it may be one."""
    if _is_code(first.cell(0)):
        return False, False
    if (
        not first.cell(0)
        or _has_words(first)
        or any(
            first.cell(column)
            and not _is_code(first.cell(column))
            and all(_is_code(line.cell(column)) for line in others)
            for column in range(len(first.cells))
            if others
        )
    ):
        return True, False
    return False, True


def _has_words(line: _Line) -> bool:
    """Whether a line has usual words of a header; one alone, or the same one twice, may be a class and its name."""
    own, *others = (_word(cell) for cell in line.cells)
    return bool(_ID_WORD.fullmatch(own)) and any(word != own and _is_word(word) for word in others)


def _is_word(cell: str) -> bool:
    return any(words.fullmatch(_word(cell)) for words in (_ID_WORD, _WNID_WORD, *_NAME_WORDS))


def _is_code(cell: str) -> bool:
    return cell.isdecimal() or WNID.fullmatch(cell) is not None


def _word(cell: str) -> str:
    return "".join(mark for mark in cell.casefold() if mark.isalnum())


def _by_header(header: _Line, lines: Sequence[_Line]) -> tuple[int, int | None]:
    """Columns of the name and of the WordNet id, by what the header calls them, or by what is in them."""
    words = [_word(cell) for cell in header.cells]
    columns = range(1, len(words))
    wnid = next((column for column in columns if _WNID_WORD.fullmatch(words[column])), None)
    if wnid is None:
        wnid = next((column for column in (2, *columns[2:]) if _are_wnids(lines, column)), None)
    others = [column for column in columns if column != wnid]
    texts = [column for column in others if not all(line.cell(column).isdecimal() for line in lines)] or others
    named = (column for called in _NAME_WORDS for column in texts if called.fullmatch(words[column]))
    return next(named, next(iter(texts), 1)), wnid


def _by_contents(lines: Sequence[_Line]) -> _Columns:
    """The columns where no header names them: behind the class id come the name and, perhaps, the WordNet id."""
    if _are_wnids(lines, 2):
        return _Columns(1, 2, 3)
    if _are_wnids(lines, 1) and any(line.cell(2) for line in lines):
        return _Columns(2, 1, 3)
    return _Columns(1, None, 2)


def _are_wnids(lines: Sequence[_Line], column: int) -> bool:
    found = [line.cell(column) for line in lines if line.cell(column)]
    return bool(found) and all(map(WNID.fullmatch, found))


def _collected(
    place: str, lines: Sequence[_Line], columns: _Columns, header: str | None = None, unsure: bool = False
) -> Table:
    names: dict[str, str] = {}
    wnids: dict[str, str] = {}
    for line in lines:
        class_id, name = line.cell(0), line.cell(columns.name)
        wnid = "" if columns.wnid is None else line.cell(columns.wnid)
        problem = _problem(line, name, wnid, columns.most)
        if class_id in names:
            problem = f"a second name for class {class_id}"
        if problem:
            raise UserError(f"{KEY}: {place}, line {line.number}: {problem}")
        names[class_id] = name
        if wnid:
            wnids[class_id] = wnid
    for wnid, count in Counter(wnids.values()).items():
        if count > 1:
            raise UserError(f"{KEY}: {place} has the WordNet id {wnid} for {count} classes")
    if _are_labels(names):
        class_id, name = next(pair for pair in names.items() if not _same(*pair))
        raise UserError(
            f"{KEY}: {place} has numbers for names, such as {name} for {class_id}: put the number of a class first, "
            "then its name"
        )
    return Table(names, place, wnids, header, unsure)


def _are_labels(names: Mapping[str, str]) -> bool:
    """Whether names are numbers, but not those of their classes, as the names of digits are."""
    if not all(map(_WHOLE.fullmatch, names.values())):
        return False
    others = sum(not _same(*pair) for pair in names.items())
    return others == len(names) or others > 1  # in SVHN only 10 is called 0


def _same(class_id: str, name: str) -> bool:
    return class_id == name or (class_id.isdecimal() and float(class_id) == float(name))


def _problem(line: _Line, name: str, wnid: str, most: int) -> str | None:
    if not name:
        return f"no name for class {line.cell(0)}"
    if any(line.cells[most:]):
        return f"{len(line.cells)} cells, where {most} are meant: put a name that has a separator in quotes"
    if WNID.fullmatch(name) or (WNID.fullmatch(line.cell(0)) and _INDEX.match(name)):
        return f"{name!r} is no name: give {_SHAPE}"
    if wnid and not WNID.fullmatch(wnid):
        return f"{wnid!r} is no WordNet id"
    return None
