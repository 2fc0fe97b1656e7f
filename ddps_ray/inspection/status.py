"""`ddps status RUN`: how far a run is, from its files alone, on any machine, whether or not its cluster still lives."""

from collections.abc import Iterator
from typing import Any

from ddps_ray import shards
from ddps_ray.console import duration, say
from ddps_ray.errors import UserError
from ddps_ray.inspection.beat import FINISHED, RUNNING, STOPPED, Beat
from ddps_ray.report import accuracy
from ddps_ray.selection import records
from ddps_ray.storage import Run

_SILENT = 60.0
"""Seconds without a heartbeat after which a job is taken to be gone."""

_GOES_ON = "the same command goes on from the images that are safe"


def run(run_dir: str) -> int:
    """Prints a line a stage, and the accuracies that are known; returns the exit code 0.

    Raises:
        UserError: It is not a run directory.
    """
    this = Run(run_dir)
    stages = this.record()["stages"]
    if not stages:
        raise UserError(f"{this.uri} is not a run directory, or nothing was begun in it")
    width = max(map(len, stages))
    differs = {each.stage: f"; {each.differs}" for each in records.recorded(this) if each.differs}
    for name, entry in sorted(stages.items(), key=lambda stage: str(stage[1]["begun"])):
        said = _scoring(this) if name == "score" and "finished" not in entry else _stage(entry)
        say(f"{name.ljust(width)}  {said}{differs.get(name, '')}")
    for line in accuracy.table(this):
        say(line)
    return 0


def _stage(entry: dict[str, Any]) -> str:
    if "finished" not in entry:
        return f"begun {_when(entry['begun'])}, not finished"
    return f"finished {_when(entry['finished'])}: {', '.join(_figures(entry['summary']))}"


def _when(time: str) -> str:
    return time.replace("T", " ").replace("+00:00", " UTC")


def _figures(summary: dict[str, Any]) -> Iterator[str]:
    for name, value in summary.items():
        if name == "accuracy" and value is not None:
            yield f"accuracy {value:.1%}"
        elif isinstance(value, int):
            yield f"{value} {name.replace('_', ' ')}"
        elif isinstance(value, dict) and value:
            yield " and ".join(f"{count} {key}" for key, count in value.items())


def _scoring(this: Run) -> str:
    beat = Beat.read(this)
    if beat is None or beat.state == FINISHED:  # of an earlier job, and the stage was begun again
        found, _ = shards.Footers(this.path(shards.FOLDER)).look()
        return f"begun, {sum(shard.rows for shard in found)} images safe"
    line = f"{beat.state}: {beat.line()}; last heard of {duration(beat.age())} ago"
    if beat.state == RUNNING and beat.age() > _SILENT:
        line += f": if the job was killed, {_GOES_ON}"
    if beat.state == STOPPED:
        line += f": {_GOES_ON}"
    return line
