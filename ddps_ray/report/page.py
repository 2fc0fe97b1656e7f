"""The report of a run: one HTML page with everything inside it, which opens anywhere without a network."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ddps_ray import manifest, storage
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.report import accuracy, charts, distilled, examples, localisation, overview, tables, variants
from ddps_ray.report.accuracy import Accuracy
from ddps_ray.report.distilled import DistilledSet
from ddps_ray.report.tables import Scores
from ddps_ray.sources.listing import BOXES_FILE
from ddps_ray.storage import Run

_STRIPS = 24
_QUARANTINE_ROWS = 8
_MINUS = "\N{MINUS SIGN}"


def run(recipe: Recipe) -> None:
    """Writes the page and says where it is.

    Raises:
        UserError: Scoring has not finished, or the file of true boxes cannot be used.
    """
    where = Run(recipe.run_dir)
    where.require("score", "score")
    say(f"report: making one HTML page of what is in {where.uri}")
    say(f"report: open {write(recipe)} in a browser")


def write(recipe: Recipe) -> str:
    """Writes `report/index.html` from the run's files; a stage that has not run has a section that says so.

    The same files give the same bytes.

    Returns:
        URI of the page.

    Raises:
        UserError: The file of true boxes cannot be used, or a distilled image cannot be read.
    """
    where = Run(recipe.run_dir)
    environment = Environment(
        loader=PackageLoader("ddps_ray", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    uri = where.path("report", "index.html")
    storage.write_bytes(uri, environment.get_template("page.html").render(_context(where, recipe)).encode())
    return uri


def _context(where: Run, recipe: Recipe) -> dict[str, Any]:
    """Everything that the template shows."""
    scores = tables.scores(where)
    classes = manifest.classes(where)
    names = dict(zip(classes["class_id"].to_pylist(), classes["class_text"].to_pylist(), strict=True))
    sets = distilled.find(where)
    results = accuracy.results(where)
    shown = distilled.pick_classes(sets, recipe.report.classes)
    quarantine = _quarantine(where)
    return {
        "recipe": recipe,
        "percent": charts.percent,
        "in_bytes": accuracy.in_bytes,
        "number": _number_format(scores.typicality),
        "record": overview.record(where),
        "settings": overview.settings(recipe),
        "sentence": overview.sentence(recipe, scores, sets, results, quarantine["count"]),
        "tiles": overview.tiles(scores, sets, results, quarantine["count"]),
        "localisation": _localisation(where, recipe),
        "scores": _scores(scores, names),
        "gallery": examples.gallery(where, scores, names) if scores.image_id else None,
        "classes": shown,
        "class_count": len(set(scores.class_id.tolist())),
        "clusters": distilled.clusters(sets, shown, names),
        "images": distilled.images(sets, shown, names),
        "accuracy": _accuracy(results, sets),
        "quarantine": quarantine,
    }


def _localisation(where: Run, recipe: Recipe) -> dict[str, Any] | None:
    boxes = recipe.report.boxes or where.path(BOXES_FILE)
    if recipe.report.boxes is None and not storage.exists(boxes):
        return None
    found = localisation.measure(where, boxes)
    holds = [(place.text, place.holds) for place in found.placements]
    covers = [(place.text, place.coverage) for place in found.placements]
    return {
        "found": found,
        "held": localisation.HELD,
        "charts": [
            charts.intervals(holds, "patches that hold the object", "Bar chart: share of patches that hold the object"),
            charts.intervals(covers, "mean share of the object inside", "Bar chart: mean share of the object inside"),
        ],
    }


def _scores(scores: Scores, names: dict[str, str]) -> dict[str, Any] | None:
    """Charts and figures of the score distribution; None if no image was scored."""
    if not scores.image_id:
        return None
    order = np.argsort(scores.class_id, kind="stable")
    ids, starts = np.unique(scores.class_id[order], return_index=True)
    groups = np.split(scores.typicality[order], starts[1:])
    rows = [(names[class_id], values) for class_id, values in zip(ids.tolist(), groups, strict=True)]
    rows.sort(key=lambda row: (-float(np.median(row[1])), row[0]))
    shown = rows if len(rows) <= _STRIPS else rows[: _STRIPS // 2] + rows[-_STRIPS // 2 :]
    return {
        "median": float(np.median(scores.typicality)),
        "positive": float((scores.typicality > 0).mean()),
        "highest": rows[0][0],
        "lowest": rows[-1][0],
        "shown": len(shown),
        "classes": len(rows),
        "charts": [
            charts.histogram(scores.typicality, "Histogram: typicality of all chosen patches"),
            charts.strips(shown, "Strips: typicality of the chosen patches by class"),
        ],
    }


def _accuracy(results: list[Accuracy], sets: list[DistilledSet]) -> dict[str, Any]:
    names = list(dict.fromkeys([each.name for each in sets] + [result.set_name for result in results]))
    differing = accuracy.differing(results)
    several = len({result.protocol for result in results}) > 1
    drawn: dict[str, list[Accuracy]] = defaultdict(list)
    for result, told in zip(results, _series(results), strict=True):
        terms = [f"protocol {result.protocol}"] * several + [told] * bool(told)
        drawn[", ".join([f"{result.student}, taught by {result.teacher}", *terms])].append(result)
    lines = [
        (text, charts.accuracies(own, names, f"Line chart: accuracy of {text}, by images per class"))
        for text, own in drawn.items()
    ]
    return {
        "rows": list(zip(results, differing, strict=True)),
        "several": several,
        "variants": any(differing),
        "labelled": any(result.label_bytes for result in results),
        "charts": lines,
        "best": accuracy.best(results),
    }


def _series(results: list[Accuracy]) -> list[str]:
    """For each result the settings that tell its chart from others of its student, teacher and protocol."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, each in enumerate(results):
        groups[each.student, each.teacher, each.protocol].append(number)
    told = [""] * len(results)
    for numbers in groups.values():
        places = [(results[number].set_name, results[number].ipc) for number in numbers]
        words, _ = variants.series(places, [results[number].terms for number in numbers])
        for number, text in zip(numbers, words, strict=True):
            told[number] = text
    return told


def _quarantine(where: Run) -> dict[str, Any]:
    """Images set aside: how many, why, and a few. Reasons that differ in numbers alone count as one."""
    columns = ["stage", "image_id", "reason"]
    rows = tables.read(where, "quarantine", columns, columns)
    each = rows.to_pylist() if rows is not None else []
    counts = Counter((row["stage"], re.sub(r"\d+([.,]\d+)*", "…", row["reason"])) for row in each)
    reasons = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "count": len({row["image_id"] for row in each}),
        "reasons": reasons[:_QUARANTINE_ROWS],
        "rows": each[:_QUARANTINE_ROWS],
    }


def _number_format(values: np.ndarray) -> Callable[[float], str]:
    """A format for typicality with about two significant digits of the values' spread."""
    spread = float(np.std(values)) if len(values) else 1.0
    digits = min(6, max(2, 1 - math.floor(math.log10(spread)))) if spread > 0 else 4
    return lambda value: f"{value:.{digits}f}".replace("-", _MINUS)
