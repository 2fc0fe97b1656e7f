"""Where a result stands in a table: which of set, IPC, student and teacher are the rows, and which the columns."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

from ddps_ray.report import variants
from ddps_ray.report.accuracy import Accuracy
from ddps_ray.report.cells import Cell
from ddps_ray.report.comparison import is_random

NONE = "–"
"""Stands where there is nothing."""

HEADINGS = {
    "data": "Data set",
    "set": "Set",
    "ipc": "IPC",
    "student": "Student",
    "teacher": "Teacher",
    "protocol": "Protocol",
}
"""What tells results apart, with its heading."""


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

    @property
    def fixed(self) -> tuple[str, ...]:
        """What is the same in all of a table."""
        return tuple(name for name in HEADINGS if name not in self.rows + self.columns)

    def without_data(self) -> "Layout":
        """The same, with a table for each data set."""
        rows, columns = (tuple(name for name in names if name != "data") for names in (self.rows, self.columns))
        return replace(self, rows=rows, columns=columns)


LAYOUTS: Mapping[str, Layout] = {
    "sets": Layout(("set",), ("data", "ipc")),
    "ipc": Layout(("data", "ipc"), ("set",)),
    "students": Layout(("set",), ("student",)),
    "teachers": Layout(("teacher",), ("student",), compared="teacher", repeats_whole=False),
    "bytes": Layout(("set", "ipc"), ("student",), repeats_whole=False, sizes=True),
}
"""By the name on the command line. In the paper: `sets` is Table 5, `ipc` is Tables 1 and 2, `teachers` 4 and 8."""


@dataclass(frozen=True)
class Placed:
    """A cell with its place.

    Attributes:
        cell: The cell.
        at: Its value of each of `HEADINGS`.
        letter: Of its settings, where results of one place differ in these; else empty.
    """

    cell: Cell
    at: Mapping[str, str]
    letter: str = ""

    def values(self, names: Sequence[str]) -> tuple[str, ...]:
        """Its place by these."""
        return tuple(self.at[name] for name in names)

    def called(self, name: str) -> str:
        """One of its values, with its letter."""
        return marked((self.at[name],), self.letter)[0]


def place(cells: Sequence[Cell], layout: Layout) -> list[Placed]:
    """Finds each cell's place; that of the whole training set is at each IPC, if the layout has it so."""
    return [each for cell in cells for each in _place(cell, cells, layout)]


def _place(cell: Cell, cells: Sequence[Cell], layout: Layout) -> list[Placed]:
    result = cell.result
    at = {
        "data": cell.data,
        "set": set_label(result),
        "ipc": result.ipc_label,
        "student": result.student,
        "teacher": result.teacher or NONE,
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


def set_label(result: Accuracy) -> str:
    """The set's name, with its selector where that is called something else."""
    if result.is_whole or result.selector == result.set_name:
        return result.set_name
    return f"{result.set_name} ({result.selector})"


def order(values: Sequence[str], names: Sequence[str], cells: Sequence[Cell]) -> list[tuple[object, ...]]:
    """A key that sorts runs as they were named and many classes before few, random sets and the whole one last.

    Numbers in names are sorted by their size.
    """
    runs = list(dict.fromkeys(cell.run for cell in cells))
    by_run = sorted(cells, key=lambda cell: (runs.index(cell.run), -cell.result.classes, cell.data))
    given = list(dict.fromkeys(cell.data for cell in by_run))
    late = {set_label(cell.result): 1 for cell in cells if is_random(cell.result)}
    late |= {set_label(cell.result): 2 for cell in cells if cell.result.is_whole}
    return [
        (given.index(value),) if name == "data" else (late.get(value, 0) * (name == "set"), *_natural(value))
        for name, value in zip(names, values, strict=True)
    ]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts the numbers in a text by size: resnet18 before resnet101."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def lettered(placed: Sequence[Placed]) -> tuple[dict[str, str], set[str], list[Placed]]:
    """Gives a letter to each combination of the settings in which results of the same place differ.

    Returns:
        The letters by the settings in words, the keys of these settings, and the cells with their letters.
    """
    words, keys = variants.series(
        [tuple(each.at.values()) for each in placed], [each.cell.result.terms for each in placed]
    )
    names = [*ascii_lowercase, *(f"{one}{other}" for one in ascii_lowercase for other in ascii_lowercase)]
    letters = dict(zip(sorted(set(words) - {""}), names, strict=False))
    return (
        letters,
        keys,
        [replace(each, letter=letters.get(text, "")) for each, text in zip(placed, words, strict=True)],
    )


def marked(labels: tuple[str, ...], letter: str) -> tuple[str, ...]:
    """Labels with a letter behind the last one, if there is one."""
    return (*labels[:-1], f"{labels[-1]} [{letter}]") if letter else labels


def in_head(name: str, value: str) -> str:
    """A value as it stands in a heading."""
    return f"IPC {value}" if name == "ipc" else value
