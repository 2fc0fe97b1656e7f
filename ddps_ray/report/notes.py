"""What stands beneath a table: over what the means are, which settings differ, and who could not be trained."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ddps_ray.report import variants
from ddps_ray.report.accuracy import RANDOM
from ddps_ray.report.cells import Cell, Failure
from ddps_ray.report.comparison import is_random
from ddps_ray.report.layouts import NONE, Layout, Placed, in_head, order

MINUS = "\N{MINUS SIGN}"

_EPOCHS = {"last": "after the last epoch", "best": "of the best epoch, chosen on the test images,"}

_NOT_COMPARED = (
    "Not compared, since the random set has other settings, other seeds, or classes that are not recorded, "
    "or there are several of its name"
)

Contexts = Mapping[str, list[Placed]]
"""Results that stand against each other, by what they share within the table."""


def beneath(
    layout: Layout,
    placed: Sequence[Placed],
    letters: Mapping[str, str],
    told: set[str],
    cells: Sequence[Cell],
    metric: str,
) -> list[str]:
    """The notes of one table.

    Args:
        layout: Of the table.
        placed: Its cells.
        letters: Letter of each combination of settings, by these in words.
        told: Keys of the settings that the letters tell.
        cells: Those of all tables, for the order.
        metric: Key of `cells.METRICS`.
    """
    contexts = _contexts(layout, placed, cells)
    return [
        f"Top-1 accuracy {_EPOCHS[metric]} in %, {_over(seeds(placed))}.",
        *_reference(placed),
        *(f"[{letter}] {text}." for text, letter in letters.items()),
        *_differing(layout, contexts, told),
        *_not_compared(contexts),
    ]


def seeds(placed: Sequence[Placed]) -> int | None:
    """How many seeds each result has; None if that is not the same everywhere."""
    counts = {each.cell.result.seeds for each in placed}
    return counts.pop() if len(counts) == 1 else None


def _over(count: int | None) -> str:
    if count == 1:
        return "of one seed"
    return f"mean ± sample standard deviation over {f'{count} seeds' if count else 'as many seeds as in parentheses'}"


def _reference(placed: Sequence[Placed]) -> Iterator[str]:
    names = {each.cell.reference.set_name for each in placed if each.cell.reference}
    if names:
        called = "" if names == {RANDOM} else f", which is called {' or '.join(sorted(names))}"
        yield (
            f"{MINUS} {RANDOM}: mean difference to the random set{called}, under the same settings and over the same "
            "seeds, with its 95 % interval (Student's t)."
        )


def _contexts(layout: Layout, placed: Sequence[Placed], cells: Sequence[Cell]) -> Contexts:
    shared = [name for name in layout.rows + layout.columns if name != layout.compared]
    found: dict[str, list[Placed]] = defaultdict(list)
    for each in sorted(placed, key=lambda each: order(each.values(shared), shared, cells)):
        found[", ".join(in_head(name, each.at[name]) for name in shared)].append(each)
    return found


def _differing(layout: Layout, contexts: Contexts, told: set[str]) -> list[str]:
    """The settings that differ between results that stand against each other, apart from those that letters tell."""
    told = told | variants.OF_A_SET
    said: dict[str, list[str]] = defaultdict(list)
    for context, own in contexts.items():
        for key in variants.varying([each.cell.result.terms for each in own]):
            if key not in told and key.partition(".")[0] != layout.compared:  # a teacher's settings are its own
                said[_partition(key, own, layout.compared)].append(context)
    by_key = sorted(said.items(), key=lambda item: item[0].partition(":")[0])
    return [f"{text}{_where(contexts, where)}." for text, where in by_key]


def _partition(key: str, own: Sequence[Placed], compared: str) -> str:
    """Who has which value of a setting."""
    who: dict[str, list[str]] = defaultdict(list)
    for each in own:
        who[each.cell.result.terms.get(key, variants.NOT_RECORDED)].append(each.called(compared))
    return f"{key}: " + "; ".join(f"{value} of {', '.join(dict.fromkeys(names))}" for value, names in who.items())


def _where(contexts: Contexts, where: Sequence[str]) -> str:
    return "" if len(where) == len(contexts) else f" ({'; '.join(where)})"


def _not_compared(contexts: Contexts) -> Iterator[str]:
    """Results without a difference, although a random set's stands beside them."""
    said: dict[str, list[str]] = defaultdict(list)
    for context, own in contexts.items():
        if any(is_random(each.cell.result) for each in own):
            for each in own:
                if not (each.cell.difference or each.cell.result.is_whole or is_random(each.cell.result)):
                    said[each.called("set")].append(context)
    if said:
        yield f"{_NOT_COMPARED}: {', '.join(f'{name}{_where(contexts, where)}' for name, where in said.items())}."


def failed(failures: Sequence[Failure], several: bool) -> list[str]:
    """A line for each cell of the grid that could not be trained, with its reason, and its run if there are several."""
    return [
        f"Not trained: {f'{each.run}, ' * several}set {each.set_name}, IPC {each.ipc}, student {each.student}, "
        f"teacher {each.teacher or NONE}, protocol {each.protocol}, "
        f"seed{'s' * (len(each.seeds) > 1)} {', '.join(map(str, each.seeds))}: {each.reason}"
        for each in failures
    ]
