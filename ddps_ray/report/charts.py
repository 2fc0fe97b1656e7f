"""Charts as SVG inside the page: its text takes the page's font, its colours follow the page's light or dark theme."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ddps_ray.config import WHOLE
from ddps_ray.report.accuracy import Accuracy
from ddps_ray.report.localisation import Interval

_INK, _SOFT, _LINE = "#010101", "#020202", "#030303"
_SERIES = ("#040401", "#040402", "#040403", "#040404", "#040405")
_MARKERS = ("o", "s", "^", "D", "v")
_THEME = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)"} | {
    colour: f"var(--c{i})" for i, colour in enumerate(_SERIES, 1)
}
"""Stand-in colours that matplotlib draws with, and the CSS variable that each becomes."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.color": _INK,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.solid_capstyle": "butt",
}
_WIDTH = 5.2


def intervals(rows: Sequence[tuple[str, Interval]], axis: str, alt: str) -> Markup:
    """Horizontal bars from 0 to 1 with confidence intervals; the first bar is the one to look at."""
    with _chart(0.62 * len(rows) + 0.75) as (figure, axes):
        axes.grid(visible=False, axis="y")
        for place, (_, value) in enumerate(rows):
            axes.barh(
                place, value.mean, 0.56, color=_SERIES[0] if place == 0 else _SOFT, alpha=1 if place == 0 else 0.55
            )
            axes.plot([value.low, value.high], [place, place], color=_INK, lw=1.4, marker="|", ms=7)
            axes.text(value.high + 0.025, place, percent(value.mean), va="center", weight="bold")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks(np.linspace(0, 1, 5), [percent(share) for share in np.linspace(0, 1, 5)])
        axes.set_xlabel(axis)
        return _svg(figure, alt)


def histogram(values: np.ndarray, alt: str) -> Markup:
    """How often each typicality occurs, with the median marked."""
    with _chart(3.3) as (figure, axes):
        low, high = np.percentile(values, [0.1, 99.9])
        counts, edges = np.histogram(values.clip(low, high), bins=40)
        axes.grid(visible=False, axis="x")
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.92, align="edge", color=_SERIES[0], alpha=0.8)
        axes.axvline(0, color=_INK, lw=1, ls=(0, (2, 2)))
        median = float(np.median(values))
        axes.axvline(median, color=_SERIES[1], lw=2)
        label: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "xytext": (5, 0),
            "textcoords": "offset points",
            "va": "top",
        }
        axes.annotate("median", (median, 1), color=_SERIES[1], weight="bold", **label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("typicality T of the chosen patch")
        axes.set_ylabel("images")
        return _svg(figure, alt)


def strips(rows: Sequence[tuple[str, np.ndarray]], alt: str) -> Markup:
    """A line for each class: 5th to 95th percentile thin, middle half thick, median as a dot."""
    with _chart(0.27 * len(rows) + 0.75) as (figure, axes):
        for place, (_, values) in enumerate(rows):
            p5, p25, p50, p75, p95 = np.percentile(values, [5, 25, 50, 75, 95])
            axes.plot([p5, p95], [place, place], color=_SERIES[0], lw=1.3)
            axes.plot([p25, p75], [place, place], color=_SERIES[0], lw=6, alpha=0.55)
            axes.plot([p50], [place], color=_INK, marker="o", ms=4.5)
        axes.axvline(0, color=_INK, lw=1, ls=(0, (2, 2)))
        axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows])
        axes.invert_yaxis()
        axes.margins(y=0.6 / len(rows))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("typicality T of the chosen patch")
        return _svg(figure, alt)


def accuracies(results: Sequence[Accuracy], sets: Sequence[str], alt: str) -> Markup:
    """Mean ± standard deviation of one student by IPC, a line for each set, and levels.

    These are the whole training set's, where it was trained on, and the teacher's, where they share one.

    Args:
        results: Those of one student, at most one for each set and IPC.
        sets: Names of all sets on the page, so that a set has the same colour in each chart.
        alt: What the chart shows.
    """
    with _chart(3.5) as (figure, axes):
        levels = {f"{WHOLE} training set": (result.last.mean, (0, (1, 2))) for result in results if result.is_whole}
        teachers = {result.teacher_accuracy for result in results if result.has_teacher}
        results = [result for result in results if not result.is_whole]
        places = {ipc: place for place, ipc in enumerate(sorted({result.ipc for result in results}))}
        names = [name for name in sets if any(result.set_name == name for result in results)]
        for i, name in enumerate(names):
            own = sorted((result for result in results if result.set_name == name), key=lambda result: result.ipc)
            shift = 0.07 * (i - (len(names) - 1) / 2)
            series = sets.index(name) % len(_SERIES)
            x = np.array([places[result.ipc] for result in own]) + shift
            mean = np.array([result.last.mean for result in own]) * 100
            spread = np.array([result.last.std or 0 for result in own]) * 100
            line: dict[str, Any] = {"color": _SERIES[series], "marker": _MARKERS[series], "ms": 6, "lw": 1.8}
            axes.errorbar(x, mean, spread, label=name, capsize=4, elinewidth=1.4, **line)
        if len(teachers) == 1:
            levels["teacher"] = (teachers.pop(), (0, (5, 3)))
        ends = (-0.5, max(len(places), 1) - 0.5)
        for label, (share, dashes) in levels.items():
            axes.errorbar(ends, (100 * share,) * 2, color=_SOFT, lw=1.2, ls=dashes, label=label)
        axes.grid(visible=False, axis="x")
        axes.set_xticks(range(len(places)), [str(ipc) for ipc in places])
        axes.set_xlim(*ends)
        axes.set_xlabel("images per class (IPC)")
        axes.set_ylabel("top-1 accuracy, %")
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=min(3, len(names) + max(len(levels), 1)),
            handlelength=1.8,
        )
        return _svg(figure, alt)


@contextmanager
def _chart(height: float) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure((_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        yield figure, axes


def _svg(figure: Figure, alt: str) -> Markup:
    """Inline SVG: no prolog, style sheet, ids without use, or names from elsewhere; salted so that ids do not clash."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    body = re.search(r'<svg .*?viewBox="([^"]*)".*?>(.*)</svg>', text.getvalue(), re.DOTALL)
    assert body
    drawing = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body[2], flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing).replace("xlink:href", "href")
    drawing = re.sub(r"font-family: [^;\"]*;?", "", re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", drawing))
    for stand_in, colour in _THEME.items():
        drawing = drawing.replace(stand_in, colour)
    start = f'<svg class="chart" role="img" aria-label="{escape(alt)}" viewBox="{body[1]}">'
    return Markup(f"{start}{drawing}</svg>")  # noqa: S704 - matplotlib escapes the text that it draws


def percent(share: float, digits: int = 0) -> str:
    """A share of one as a percentage, the sign kept beside its number."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
