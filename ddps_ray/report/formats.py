"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddps_ray.report.accuracy import Spread
from ddps_ray.report.cells import Cell, Failure
from ddps_ray.report.notes import MINUS
from ddps_ray.report.pivot import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    MINUS: "$-$",
    "–": "--",
} | {sign: f"\\{sign}" for sign in "&%$#_"}

_COLUMNS = (
    *("run", "data", "set", "selector", "ipc", "student", "teacher", "protocol", "classes", "class_digest"),
    *("metric", "mean", "std", "seeds", "reference", "pairs", "difference", "low", "high", "images", "bytes"),
    *("label_bytes", "total_bytes"),
    *("hlr", "ior", "lrs", "ior_plain", "ars", "settings", "failed"),
)


def markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Pipe tables that read well as they are, too.

    Args:
        tables: From `pivot`.
        notes: Lines for the end.
    """
    parts = [f"**{_pipes(table.title)}**\n\n{_grid(table)}{_list(table.notes)}" for table in tables]
    return "\n".join([*parts, _list(notes).lstrip("\n")] if notes else parts)


def _grid(table: Table) -> str:
    rows = [tuple(map(_pipes, row)) for row in (table.head, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width if i < table.labels else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = [
            cell.ljust(width) if i < table.labels else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _list(notes: Sequence[str]) -> str:
    return "".join(f"\n- {_pipes(note)}" for note in notes) + "\n"


def _pipes(text: str) -> str:
    for sign in "\\|<*`":
        text = text.replace(sign, f"\\{sign}")
    return text


def latex(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """One `table` each, which needs the package booktabs and no other; a line for the end is a comment.

    Args:
        tables: From `pivot`.
        notes: Lines for the end.
    """
    return "\n".join([*map(_tabular, tables), *(f"% {' '.join(note.split())}" for note in notes)]).rstrip("\n") + "\n"


def _tabular(table: Table) -> str:
    def line(row: Sequence[str]) -> str:
        return " & ".join(map(_escaped, row)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{'l' * table.labels}{'r' * (len(table.head) - table.labels)}}}",
            r"\toprule",
            line(table.head),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par{{\footnotesize {_escaped(note)}}}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    text = "".join(_LATEX.get(sign, sign) for sign in text)
    return f"{{}}{text}" if text.startswith(("[", "*")) else text  # which would belong to the \\ before


def comma_separated(cells: Sequence[Cell], failures: Sequence[Failure], metric: str) -> str:
    """One line a result with all its keys, whatever the layout; accuracies and their differences are in %.

    Args:
        cells: From `cells.gather`.
        failures: That, too: lines with a reason in `failed` and no figures.
        metric: Key of `cells.METRICS`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_line(cell) | {"metric": metric} for cell in cells)
    writer.writerows(_failure(each) for each in failures)
    return text.getvalue()


def _line(cell: Cell) -> dict[str, Any]:
    result, gap = cell.result, cell.difference
    low, high = gap.interval if gap and gap.interval else (None, None)
    return {
        **_place(cell.run, result),
        "data": cell.data,
        "set": result.set_name,
        "selector": result.selector,
        "classes": result.classes,
        "class_digest": result.class_digest,
        "mean": _percent(cell.value.mean),
        "std": _percent(cell.value.std),
        "seeds": result.seeds,
        "reference": cell.reference.set_name if cell.reference else None,
        "pairs": gap.seeds if gap else None,
        "difference": _percent(gap.mean if gap else None),
        "low": _percent(low),
        "high": _percent(high),
        "images": result.images,
        "bytes": result.set_bytes,
        "label_bytes": result.label_bytes,
        "total_bytes": result.total_bytes,
        "settings": json.dumps(json.loads(result.settings) | {"epochs": result.epochs}, sort_keys=True),
        **_scores(cell),
    }


def _scores(cell: Cell) -> dict[str, float | None]:
    if cell.ranking is None:
        return {}
    scores: dict[str, tuple[Spread | None, Callable[[float | None], float | None]]] = {
        "hlr": (cell.ranking.recovery, _percent),
        "ior": (cell.ranking.improvement, _percent),
        "lrs": (cell.ranking.label_robust, _share),
        "ior_plain": (cell.ranking.plain, _percent),
        "ars": (cell.ranking.augmentation_robust, _share),
    }
    return {name: rounded(score.mean) if score else None for name, (score, rounded) in scores.items()}


def _failure(each: Failure) -> dict[str, Any]:
    return {**_place(each.run, each), "set": each.set_name, "seeds": 0, "failed": each.reason}


def _place(run: str, about: Any) -> dict[str, Any]:
    return {"run": run} | {name: getattr(about, name) for name in ("ipc", "student", "teacher", "protocol")}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, 6)


DRAWN: Mapping[str, Callable[[Sequence[Table], Sequence[str]], str]] = {"markdown": markdown, "latex": latex}
"""What lays tables out for the eye, by the name on the command line."""
