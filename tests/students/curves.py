"""What TensorBoard itself reads from a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Scalars = dict[str, list[tuple[int, float]]]
"""Step and value of each point, by the scalar's tag."""


def reader(folder: Path) -> "EventAccumulator":
    """TensorBoard's own reader, of all points."""
    # Here, since drivers on other nodes, which read nothing, import the tests that use this module.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0})


def scalars(folder: Path) -> Scalars:
    return read(reader(folder))


def read(reader: "EventAccumulator") -> Scalars:
    """What a reader has after another look at its folder."""
    reader.Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
