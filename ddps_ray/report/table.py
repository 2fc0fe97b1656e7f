"""`ddps table RUN …`: what students reached, in the paper's layouts, as Markdown, LaTeX or CSV."""

from collections.abc import Sequence

from ddps_ray import storage
from ddps_ray.console import say
from ddps_ray.errors import UserError, first_line
from ddps_ray.report import cells, formats, notes, pivot


def run(run_dirs: Sequence[str], layout: str, metric: str, form: str, out: str | None) -> None:
    """Prints the tables of some runs, or writes them to a file.

    Args:
        run_dirs: Folders or URIs of the runs.
        layout: Key of `layouts.LAYOUTS`.
        metric: Key of `cells.METRICS`.
        form: `csv`, or a key of `formats.DRAWN`.
        out: File or URI to write; None to print.

    Raises:
        UserError: A run has no results, or is named twice; or the file cannot be written.
    """
    text = made(run_dirs, layout, metric, form)
    if out is None:
        say(text.rstrip("\n"))
        return
    try:
        storage.write_bytes(storage.absolute(out), text.encode())
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {first_line(error)}") from error
    say(f"table: written to {out}")


def made(run_dirs: Sequence[str], layout: str, metric: str, form: str) -> str:
    """The tables as one text; arguments and errors as in `run`."""
    found, failures = cells.gather(run_dirs, cells.METRICS[metric])
    if form == "csv":
        return formats.comma_separated(found, failures, metric)
    return formats.DRAWN[form](
        [*pivot.tables(found, layout, metric), *pivot.rankings(found)],
        notes.failed(failures, several=len(run_dirs) > 1),
    )
