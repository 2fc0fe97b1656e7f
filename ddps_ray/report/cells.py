"""The results of one or several runs, each beside the random set's, and the students that could not be trained."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddps_ray.errors import UserError
from ddps_ray.report import accuracy, comparison, ranking, tables
from ddps_ray.report.accuracy import Accuracy, Spread
from ddps_ray.report.comparison import Difference
from ddps_ray.report.ranking import Measure, Ranking
from ddps_ray.storage import Run

_FAILED = "evaluation/failed"
_FAILURE = (
    "set_name",
    "ipc",
    "teacher",
    "student",
    "protocol",
    "seed",
    "reason",
    "settings",
    "set_digest",
    "class_digest",
)


def last(result: Accuracy) -> Mapping[int, float]:
    """Accuracy of each seed after the last epoch."""
    return result.last_by_seed


def best(result: Accuracy) -> Mapping[int, float]:
    """Accuracy of each seed's best epoch, chosen on the validation split itself."""
    return result.best_by_seed


METRICS: Mapping[str, Measure] = {"last": last, "best": best}
"""Which accuracy counts, by the name on the command line."""


@dataclass(frozen=True)
class Cell:
    """A result with what it is compared to.

    Attributes:
        run: What its run is called.
        data: What its classes are called: the run, where there are several, and how many they are, where that varies.
        result: The result.
        value: Mean and deviation of the accuracy that counts.
        reference: The random set's result under the same terms, if any.
        difference: This minus that.
        ranking: DD-Ranking's scores, where they can be known.
    """

    run: str
    data: str
    result: Accuracy
    value: Spread
    reference: Accuracy | None
    difference: Difference | None
    ranking: Ranking | None


@dataclass(frozen=True)
class Failure:
    """Students that could not be trained, of one cell of the grid.

    Attributes:
        run: What the run is called.
        set_name: The set.
        ipc: Its images per class.
        student: The architecture.
        teacher: The teacher's.
        protocol: Name of the preset.
        reason: Why, in words.
        seeds: Of the students.
    """

    run: str
    set_name: str
    ipc: int
    student: str
    teacher: str
    protocol: str
    reason: str
    seeds: tuple[int, ...]


def gather(run_dirs: Sequence[str], measure: Measure) -> tuple[list[Cell], list[Failure]]:
    """Reads the results and the failures of some runs.

    Args:
        run_dirs: Folders or URIs of the runs.
        measure: Which accuracy counts.

    Raises:
        UserError: One is named twice, or has no result and no failure.
    """
    runs = [Run(each) for each in run_dirs]
    if twice := [run.uri for number, run in enumerate(runs) if run.uri in [other.uri for other in runs[:number]]]:
        raise UserError(f"{twice[0]} is named twice")
    cells: list[Cell] = []
    failures: list[Failure] = []
    for run, name in zip(runs, _names(runs), strict=True):
        found = accuracy.results(run)
        failed = _failures(run, name, found)
        if not found and not failed:
            raise UserError(f"{run.uri} has no results: run `ddps evaluate` first")
        cells += _cells(name, found, measure, several=len(runs) > 1)
        failures += failed
    return cells, failures


def _names(runs: Sequence[Run]) -> list[str]:
    """The last part of each run's place; all of it where that is not enough to tell them apart."""
    short = [run.uri.partition("?")[0].rstrip("/").rpartition("/")[2] for run in runs]
    return [name if short.count(name) == 1 else run.uri for run, name in zip(runs, short, strict=True)]


def _cells(name: str, found: Sequence[Accuracy], measure: Measure, several: bool) -> list[Cell]:
    scores = {id(each.result): each for each in ranking.rank(found, measure)}
    counts = {(each.classes, each.class_digest) for each in found}
    cells = []
    for each in found:
        classes = f"{each.classes} classes"
        if [count for count, _ in counts].count(each.classes) > 1:
            classes += f" ({each.class_digest[:8] if each.class_digest else 'which ones is not recorded'})"
        data = classes if not several else name if len(counts) == 1 else f"{name}, {classes}"
        reference = comparison.random_like(each, found)
        cells.append(
            Cell(
                run=name,
                data=data,
                result=each,
                value=accuracy.spread([*measure(each).values()]),
                reference=reference,
                difference=comparison.paired(measure(each), measure(reference)) if reference else None,
                ranking=scores.get(id(each)),
            )
        )
    return cells


def _failures(run: Run, name: str, found: Sequence[Accuracy]) -> list[Failure]:
    """Those that have no result since; seeds that failed for the same reason are one."""
    done = {
        (each.set_name, each.ipc, each.teacher, each.student, each.protocol, seed, each.settings, *digests)
        for each in found
        for digests in ((each.set_digest, each.class_digest), (None, None))  # a row of an earlier layout has none
        for seed in each.last_by_seed
    }
    order = [column for column in _FAILURE if column != "seed"]
    rows = tables.read(run, _FAILED, list(_FAILURE), [*order, "seed"])
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist() if rows is not None else []:
        if tuple(row[column] for column in _FAILURE if column != "reason") not in done:
            groups[tuple(row[column] for column in order)].append(row)
    return [
        Failure(
            run=name,
            **{
                column: value
                for column, value in own[0].items()
                if column not in ("seed", "settings", "set_digest", "class_digest")
            },
            seeds=tuple(dict.fromkeys(row["seed"] for row in own)),
        )
        for own in groups.values()
    ]
