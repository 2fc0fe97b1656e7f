"""The paper's tables: which of set, IPC, student and teacher are the rows, and which the columns."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

from ddps_ray.report import variants
from ddps_ray.report.accuracy import RANDOM, Spread
from ddps_ray.report.cells import Cell, Failure
from ddps_ray.report.comparison import Difference, is_random

MINUS = "\N{MINUS SIGN}"
_NONE = "–"
_ALL = "all"
"""Stands for the IPC of the whole training set."""

_HEADINGS = {
    "data": "Data set",
    "set": "Set",
    "ipc": "IPC",
    "student": "Student",
    "teacher": "Teacher",
    "protocol": "Protocol",
}
_UNSAID = {"selector", "images", "set_digest", "class_digest"}
"""What is another for each set, so that it need not be said."""


@dataclass(frozen=True)
class Layout:
    """How a table is laid out; what is neither row nor column is the same in all of a table.

    Attributes:
        rows: What tells rows apart.
        columns: What tells columns apart.
        compared: Whose results stand against each other, with all else the same.
        repeats_whole: Show the whole training set at each IPC.
        sizes: Show images and bytes beside each row, and sort rows by these.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    compared: str = "set"
    repeats_whole: bool = True
    sizes: bool = False


LAYOUTS: Mapping[str, Layout] = {
    "sets": Layout(("set",), ("data", "ipc")),
    "ipc": Layout(("data", "ipc"), ("set",)),
    "students": Layout(("set",), ("student",)),
    "teachers": Layout(("teacher",), ("student",), compared="teacher", repeats_whole=False),
    "bytes": Layout(("set", "ipc"), ("student",), repeats_whole=False, sizes=True),
}
"""By the name on the command line. In the paper: `sets` is Table 5, `ipc` is Tables 1 and 2, `teachers` 4 and 8."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: What is the same in all of it.
        head: Headings of the columns.
        labels: How many of the columns, from the left, are names; the others are figures.
        rows: The cells.
        notes: What stands beneath.
    """

    title: str
    head: tuple[str, ...]
    labels: int
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A cell with its place: the value of each of `_HEADINGS`, and the letter of its settings where rows differ."""

    cell: Cell
    at: Mapping[str, str]
    letter: str = ""

    def values(self, names: Sequence[str]) -> tuple[str, ...]:
        """Its place by these."""
        return tuple(self.at[name] for name in names)


def tables(cells: Sequence[Cell], name: str, metric: str) -> list[Table]:
    """Lays results out.

    Args:
        cells: From `cells.gather`.
        name: Key of `LAYOUTS`.
        metric: Key of `cells.METRICS`, for the notes.
    """
    layout = LAYOUTS[name]
    if len({cell.run for cell in cells}) == 1:
        layout = replace(layout, rows=_without_data(layout.rows), columns=_without_data(layout.columns))
    placed = [each for cell in cells for each in _place(cell, cells, layout)]
    fixed = [name for name in _HEADINGS if name not in layout.rows + layout.columns]
    blocks: dict[tuple[str, ...], list[Placed]] = defaultdict(list)
    for each in sorted(placed, key=lambda each: _order(each.values(fixed), fixed, cells)):
        blocks[each.values(fixed)].append(each)
    return [_Block(layout, fixed, own, cells, metric).table() for own in blocks.values()]


def _without_data(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name != "data")


def _place(cell: Cell, cells: Sequence[Cell], layout: Layout) -> list[Placed]:
    """Where a cell stands; that of the whole training set at each IPC, if the layout has it so."""
    result = cell.result
    set_name = result.set_name if result.selector == result.set_name else f"{result.set_name} ({result.selector})"
    at = {
        "data": cell.data,
        "set": result.set_name if result.is_whole else set_name,
        "ipc": _ALL if result.is_whole else str(result.ipc),
        "student": result.student,
        "teacher": result.teacher or _NONE,
        "protocol": result.protocol,
    }
    beside = {
        str(each.result.ipc)
        for each in cells
        if (each.data, each.result.student, each.result.teacher, each.result.protocol)
        == (cell.data, result.student, result.teacher, result.protocol)
        and not each.result.is_whole
    }
    if result.is_whole and layout.repeats_whole and beside:
        return [Placed(cell, at | {"ipc": ipc}) for ipc in sorted(beside)]
    return [Placed(cell, at)]


def _order(values: Sequence[str], names: Sequence[str], cells: Sequence[Cell]) -> list[tuple[object, ...]]:
    """A key that sorts data sets as they were named, the random and the whole set last, and numbers by size."""
    given = list(dict.fromkeys(cell.data for cell in cells))
    special = {cell.result.set_name: 2 for cell in cells if cell.result.is_whole}
    return [
        (given.index(value),)
        if name == "data"
        else (special.get(value, 1 if value.startswith(RANDOM) else 0), *_natural(value))
        for name, value in zip(names, values, strict=True)
    ]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts the numbers in a text by size: resnet18 before resnet101."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


class _Block:
    """One table in the making."""

    def __init__(
        self, layout: Layout, fixed: Sequence[str], placed: Sequence[Placed], cells: Sequence[Cell], metric: str
    ) -> None:
        self.layout, self.fixed, self.cells, self.metric = layout, fixed, cells, metric
        self.letters, self.keys, self.placed = _lettered(placed)
        counts = {len(each.cell.result.last_by_seed) for each in placed}
        self.seeds = counts.pop() if len(counts) == 1 else None

    def table(self) -> Table:
        """The table."""
        marks_columns = self.layout.compared in self.layout.columns
        columns = self._sorted(
            {(each.values(self.layout.columns), each.letter * marks_columns) for each in self.placed}
        )
        rows: dict[tuple[tuple[str, ...], str], list[Placed]] = defaultdict(list)
        for each in self.placed:
            rows[each.values(self.layout.rows), each.letter * (not marks_columns)].append(each)
        lines: list[tuple[str, ...]] = []
        for values, letter in self._sorted_rows(rows):
            own = {
                (each.values(self.layout.columns), each.letter * marks_columns): each.cell
                for each in rows[values, letter]
            }
            lines += self._lines(_marked(values, letter), [own.get(column) for column in columns])
        head = tuple(_HEADINGS[name] for name in self.layout.rows) + ("Images", "Size") * self.layout.sizes
        return Table(
            title=", ".join(_said(name, self.placed[0].at[name]) for name in self.fixed),
            head=head + tuple(self._column(*column) for column in columns),
            labels=len(self.layout.rows),
            rows=tuple(lines),
            notes=tuple(self._notes()),
        )

    def _sorted(self, keys: set[tuple[tuple[str, ...], str]]) -> list[tuple[tuple[str, ...], str]]:
        return sorted(keys, key=lambda key: (_order(key[0], self.layout.columns, self.cells), key[1]))

    def _sorted_rows(
        self, rows: Mapping[tuple[tuple[str, ...], str], list[Placed]]
    ) -> list[tuple[tuple[str, ...], str]]:
        def place(key: tuple[tuple[str, ...], str]) -> tuple[float, list[tuple[object, ...]], str]:
            size = rows[key][0].cell.result.set_bytes if self.layout.sizes else 0
            return float("inf") if size is None else size, _order(key[0], self.layout.rows, self.cells), key[1]

        return sorted(rows, key=place)

    def _column(self, values: tuple[str, ...], letter: str) -> str:
        names = self.layout.columns
        return _marked((", ".join(_in_head(*pair) for pair in zip(names, values, strict=True)),), letter)[0]

    def _lines(self, labels: tuple[str, ...], cells: Sequence[Cell | None]) -> list[tuple[str, ...]]:
        """A row, and beneath it its difference to the random set."""
        results = [cell.result for cell in cells if cell]
        sizes = (f"{results[0].images:,}", size(results[0].set_bytes)) if self.layout.sizes else ()
        lines = [(*labels, *sizes, *(self._value(cell) if cell else _NONE for cell in cells))]
        if any(cell and cell.difference for cell in cells):
            gaps = (self._gap(cell.difference) if cell and cell.difference else "" for cell in cells)
            lines.append((*("",) * (len(labels) - 1), f"{MINUS} {RANDOM}", *("",) * len(sizes), *gaps))
        return lines

    def _value(self, cell: Cell) -> str:
        return str(cell.value) if self.seeds else f"{cell.value} ({cell.result.seeds})"

    def _gap(self, gap: Difference) -> str:
        text = signed(gap.mean)
        if gap.interval:
            text += f" [{signed(gap.interval[0])}, {signed(gap.interval[1])}]"
        return text if gap.seeds == self.seeds else f"{text} ({gap.seeds})"

    def _notes(self) -> list[str]:
        epoch = "after the last epoch" if self.metric == "last" else "of the best epoch, chosen on the test images,"
        over = f"{self.seeds} seeds" if self.seeds else "as many seeds as in parentheses"
        spread = "of one seed" if self.seeds == 1 else f"mean ± sample standard deviation over {over}"
        notes = [f"Top-1 accuracy {epoch} in %, {spread}."]
        references = {each.cell.reference.set_name for each in self.placed if each.cell.reference}
        if references:
            called = f", which is called {' or '.join(sorted(references))}" if references != {RANDOM} else ""
            notes.append(
                f"{MINUS} {RANDOM}: mean difference to the random set{called}, under the same settings and over the "
                "same seeds, with its 95 % interval (Student's t)."
            )
        notes += [f"[{letter}] {text}." for text, letter in self.letters.items()]
        return notes + self._differing() + self._not_compared()

    def _differing(self) -> list[str]:
        """The settings that differ between results that stand against each other, apart from those of the letters."""
        said: dict[str, list[str]] = defaultdict(list)
        contexts = self._contexts()
        for context, own in contexts.items():
            terms = [each.cell.result.terms for each in own]
            for key in variants.varying(terms):
                if key not in _UNSAID and key not in self.keys and not key.startswith(self._of_the_compared()):
                    said[_partition(key, own, self.layout.compared)].append(context)
        return [
            f"{text}." if len(where) == len(contexts) else f"{text} ({'; '.join(where)})."
            for text, where in said.items()
        ]

    def _of_the_compared(self) -> tuple[str, ...]:
        return ("teacher",) if self.layout.compared == "teacher" else ()

    def _contexts(self) -> dict[str, list[Placed]]:
        """Results that stand against each other, by what they share within the table."""
        shared = [name for name in self.layout.rows + self.layout.columns if name != self.layout.compared]
        found: dict[str, list[Placed]] = defaultdict(list)
        for each in sorted(self.placed, key=lambda each: _order(each.values(shared), shared, self.cells)):
            found[", ".join(_in_head(name, each.at[name]) for name in shared)].append(each)
        return found

    def _not_compared(self) -> list[str]:
        """Results without a difference, although a random set's stands beside them."""
        said = []
        for context, own in self._contexts().items():
            left = [each for each in own if not (each.cell.difference or each.cell.result.is_whole)]
            names = [_of(each, "set") for each in left if not is_random(each.cell.result)]
            if names and any(is_random(each.cell.result) for each in own):
                said.append(f"{', '.join(names)}{f' ({context})' if context else ''}")
        text = "Not compared, since the random set has other settings, other seeds, or classes that are not recorded"
        return [f"{text}: {'; '.join(said)}."] if said else []


def _lettered(placed: Sequence[Placed]) -> tuple[dict[str, str], list[str], list[Placed]]:
    """Gives a letter to each combination of the settings in which results of the same place differ.

    Returns:
        The letters by the settings in words, the keys of these settings, and the cells with their letters.
    """
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for each in placed:
        groups[tuple(each.at.values())].append(each.cell.result.terms)
    keys = sorted({key for group in groups.values() for key in variants.varying(group)})
    if not keys:
        return {}, [], list(placed)
    words = [variants.words(each.cell.result.terms, keys) for each in placed]
    names = [*ascii_lowercase, *(f"{one}{other}" for one in ascii_lowercase for other in ascii_lowercase)]
    letters = dict(zip(sorted(set(words)), names, strict=False))
    return letters, keys, [replace(each, letter=letters[text]) for each, text in zip(placed, words, strict=True)]


def _partition(key: str, own: Sequence[Placed], compared: str) -> str:
    """Who has which value of a setting."""
    who: dict[str, list[str]] = defaultdict(list)
    for each in own:
        who[each.cell.result.terms.get(key, variants.NOT_RECORDED)].append(_of(each, compared))
    return f"{key}: " + "; ".join(f"{value} of {', '.join(dict.fromkeys(names))}" for value, names in who.items())


def _of(each: Placed, name: str) -> str:
    return _marked((each.at[name],), each.letter)[0]


def _marked(labels: tuple[str, ...], letter: str) -> tuple[str, ...]:
    return (*labels[:-1], f"{labels[-1]} [{letter}]") if letter else labels


def _said(name: str, value: str) -> str:
    return value if name == "data" else f"{_HEADINGS[name] if name == 'ipc' else name} {value}"


def _in_head(name: str, value: str) -> str:
    return f"IPC {value}" if name == "ipc" else value


def signed(share: float) -> str:
    """A difference in percent points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", MINUS)


def size(number: int | None) -> str:
    """Bytes in words; a dash where they are not known."""
    if number is None:
        return _NONE
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def rankings(cells: Sequence[Cell]) -> list[Table]:
    """DD-Ranking's scores, as a table of their own; none where the runs lack the rows that these need."""
    found = [cell for cell in cells if cell.ranking]
    if not found:
        return []
    columns: dict[str, list[str]] = {
        "Data set": [cell.data for cell in found],
        "Set": [cell.result.set_name for cell in found],
        "IPC": [str(cell.result.ipc) for cell in found],
        "Student": [cell.result.student for cell in found],
        "Teacher": [cell.result.teacher or _NONE for cell in found],
        "Protocol": [cell.result.protocol for cell in found],
    }
    labels = len(columns)
    scores = [cell.ranking for cell in found if cell.ranking]
    columns |= {
        "HLR": [_NONE if each.recovery is None else str(each.recovery) for each in scores],
        "IOR": [_NONE if each.improvement is None else str(each.improvement) for each in scores],
        "LRS": [_score(each.label_robust) for each in scores],
        "IOR, plain": [_NONE if each.plain is None else str(each.plain) for each in scores],
        "ARS": [_score(each.augmentation_robust) for each in scores],
    }
    columns = {name: values for name, values in columns.items() if set(values) != {_NONE} or name in _HEADINGS.values()}
    notes = (
        "HLR: hard-label recovery, whole training set minus set, both with hard labels, in % (low is good).",
        "IOR: improvement over random in %; plain: without CutMix and crops.",
        "LRS and ARS: label-robust and augmentation-robust score, 0 to 1, λ = 0.5 (high is good).",
    )
    rows = tuple(zip(*columns.values(), strict=True))
    return [Table("DD-Ranking", tuple(columns), labels, tuple(tuple(map(_minus, row)) for row in rows), notes)]


def _minus(text: str) -> str:
    return text.replace("-", MINUS) if re.match(r"-\d", text) else text


def _score(score: Spread | None) -> str:
    if score is None:
        return _NONE
    return f"{score.mean:.3f}" if score.std is None else f"{score.mean:.3f} ± {score.std:.3f}"


def failed(failures: Sequence[Failure]) -> list[str]:
    """A line for each cell of the grid that could not be trained, with its reason."""
    several = len({each.run for each in failures}) > 1
    return [
        f"Not trained: {f'{each.run}, ' * several}set {each.set_name}, IPC {each.ipc}, student {each.student}, "
        f"teacher {each.teacher or _NONE}, protocol {each.protocol}, "
        f"seed{'s' * (len(each.seeds) > 1)} {', '.join(map(str, each.seeds))}: {each.reason}"
        for each in failures
    ]
