"""What TensorBoard itself reads from a folder."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Scalars = dict[str, list[tuple[int, float]]]
"""Step and value of each point, by the scalar's tag."""


def scalars(folder: Path) -> Scalars:
    return read(EventAccumulator(str(folder), size_guidance={"scalars": 0}))


def read(reader: EventAccumulator) -> Scalars:
    """What a reader has after another look at its folder."""
    reader.Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
