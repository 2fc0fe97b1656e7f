"""The paper's tables, as texts in rows and columns."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ddps_ray.report import notes
from ddps_ray.report.accuracy import RANDOM, Accuracy, Spread, in_bytes
from ddps_ray.report.cells import Cell
from ddps_ray.report.comparison import Difference
from ddps_ray.report.layouts import HEADINGS, LAYOUTS, NONE, Layout, Placed, in_head, lettered, marked, order, place
from ddps_ray.report.notes import MINUS

Key = tuple[tuple[str, ...], str]
"""A row or column: its labels, and the letter of its settings."""


_SIZES: Mapping[str, Callable[[Accuracy], str]] = {
    "Images": lambda each: f"{each.images:,}",
    "Size": lambda each: in_bytes(each.set_bytes),
}
"""What a result was trained on, by heading."""
_WITH_LABELS: Mapping[str, Callable[[Accuracy], str]] = {
    "Labels": lambda each: in_bytes(each.label_bytes),
    "Total": lambda each: in_bytes(each.total_bytes),
}
"""Besides, where labels were stored."""


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


def tables(cells: Sequence[Cell], name: str, metric: str) -> list[Table]:
    """Lays results out.

    Args:
        cells: From `cells.gather`.
        name: Key of `LAYOUTS`.
        metric: Key of `cells.METRICS`, for the notes.
    """
    layout = LAYOUTS[name] if len({cell.run for cell in cells}) > 1 else LAYOUTS[name].without_data()
    blocks: dict[tuple[str, ...], list[Placed]] = defaultdict(list)
    for each in place(cells, layout):
        blocks[each.values(layout.fixed)].append(each)
    return [
        _Block(layout, blocks[fixed], cells).table(metric)
        for fixed in sorted(blocks, key=lambda fixed: order(fixed, layout.fixed, cells))
    ]


class _Block:
    """One table in the making."""

    def __init__(self, layout: Layout, placed: Sequence[Placed], cells: Sequence[Cell]) -> None:
        self.layout, self.cells = layout, cells
        self.letters, self.told, self.placed = lettered(placed)
        self.seeds = notes.seeds(placed)
        self.marks_columns = layout.compared in layout.columns
        self.sizes = _SIZES if layout.sizes else {}
        if layout.sizes and any(each.cell.result.label_bytes for each in placed):
            self.sizes = {**_SIZES, **_WITH_LABELS}

    def table(self, metric: str) -> Table:
        """The table; `metric` is a key of `cells.METRICS`."""
        rows: dict[Key, dict[Key, Cell]] = defaultdict(dict)
        for each in self.placed:
            row = each.values(self.layout.rows), "" if self.marks_columns else each.letter
            column = each.values(self.layout.columns), each.letter if self.marks_columns else ""
            rows[row][column] = each.cell
        columns = sorted(
            {column for row in rows.values() for column in row},
            key=lambda key: (order(key[0], self.layout.columns, self.cells), key[1]),
        )
        heads = [HEADINGS[name] for name in self.layout.rows] + list(self.sizes)
        first = self.placed[0].at
        return Table(
            title=", ".join(_said(name, first[name]) for name in self.layout.fixed),
            head=(*heads, *map(self._head, columns)),
            labels=len(self.layout.rows),
            rows=tuple(line for key in self._sorted(rows) for line in self._lines(key, rows[key], columns)),
            notes=tuple(notes.beneath(self.layout, self.placed, self.letters, self.told, self.cells, metric)),
        )

    def _sorted(self, rows: dict[Key, dict[Key, Cell]]) -> list[Key]:
        def of(key: Key) -> tuple[float, list[tuple[object, ...]], str]:
            size = _first(rows[key]).result.total_bytes if self.layout.sizes else 0
            return float("inf") if size is None else size, order(key[0], self.layout.rows, self.cells), key[1]

        return sorted(rows, key=of)

    def _head(self, column: Key) -> str:
        names = zip(self.layout.columns, column[0], strict=True)
        return marked((", ".join(in_head(name, value) for name, value in names),), column[1])[0]

    def _lines(self, key: Key, row: dict[Key, Cell], columns: Sequence[Key]) -> list[tuple[str, ...]]:
        """A row, and beneath it its difference to the random set."""
        cells, about = [row.get(column) for column in columns], _first(row).result
        sizes = [said(about) for said in self.sizes.values()]
        lines = [(*marked(*key), *sizes, *(self._value(cell) if cell else NONE for cell in cells))]
        if any(cell.difference for cell in row.values()):
            gaps = (self._gap(cell.difference) if cell and cell.difference else "" for cell in cells)
            lines.append((*("",) * (len(key[0]) - 1), f"{MINUS} {RANDOM}", *("",) * len(sizes), *gaps))
        return lines

    def _value(self, cell: Cell) -> str:
        return str(cell.value) if self.seeds else f"{cell.value} ({cell.result.seeds})"

    def _gap(self, gap: Difference) -> str:
        text = signed(gap.mean)
        if gap.interval:
            text += f" [{signed(gap.interval[0])}, {signed(gap.interval[1])}]"
        return text if gap.seeds == self.seeds else f"{text} ({gap.seeds})"


def _first(row: dict[Key, Cell]) -> Cell:
    return next(iter(row.values()))


def _said(name: str, value: str) -> str:
    if name == "data":
        return value
    return f"{HEADINGS[name] if name == 'ipc' else name} {value}"


def signed(share: float) -> str:
    """A difference in percent points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", MINUS)


def rankings(cells: Sequence[Cell]) -> list[Table]:
    """DD-Ranking's scores, as a table of their own; none where the runs lack the rows that these need."""
    found = [(each, each.cell.ranking) for each in place(cells, LAYOUTS["sets"]) if each.cell.ranking]
    found.sort(key=lambda pair: order(tuple(pair[0].at.values()), tuple(HEADINGS), cells))
    letters = lettered([each for each, _ in found])
    columns: dict[str, list[str]] = {
        HEADINGS[name]: [each.called(name) if name == "set" else each.at[name] for each in letters[2]]
        for name in HEADINGS
    }
    scores = [ranking for _, ranking in found if ranking]
    figures = {
        "HLR": [_percent(each.recovery) for each in scores],
        "IOR": [_percent(each.improvement) for each in scores],
        "LRS": [_share(each.label_robust) for each in scores],
        "IOR, plain": [_percent(each.plain) for each in scores],
        "ARS": [_share(each.augmentation_robust) for each in scores],
    }
    figures = {name: values for name, values in figures.items() if set(values) != {NONE}}
    said = (
        "HLR: hard-label recovery, whole training set minus set, both with hard labels, in % (low is good).",
        "IOR: improvement over random in %; plain: without CutMix and crops.",
        "LRS and ARS: label-robust and augmentation-robust score, 0 to 1, λ = 0.5 (high is good).",
        *(f"[{letter}] {text}." for text, letter in letters[0].items()),
    )
    rows = tuple(zip(*(columns | figures).values(), strict=True))
    return [Table("DD-Ranking", (*columns, *figures), len(columns), rows, said)] if found else []


def _percent(spread: Spread | None) -> str:
    return NONE if spread is None else re.sub(r"^-", MINUS, str(spread))


def _share(spread: Spread | None) -> str:
    if spread is None:
        return NONE
    return f"{spread.mean:.3f}" if spread.std is None else f"{spread.mean:.3f} ± {spread.std:.3f}"
