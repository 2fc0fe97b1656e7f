"""The distilled sets that a run has, whatever its recipe says now, and what tells those of one name apart."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ddps_ray import manifest
from ddps_ray.selection import sets
from ddps_ray.storage import Run

_STAGE = re.compile(r"distill/(?P<name>[^/]+)/ipc=(?P<ipc>\d+)(~\w+)?")
_NAMED = 4
"""Classes of a set that are told by name, where sets differ in their classes."""


@dataclass(frozen=True)
class Recorded:
    """A set at one IPC that a run has made, or begun.

    Attributes:
        name: The set's name.
        ipc: Images per class.
        stage: Its name in the run's record.
        uri: Its folder.
        settings: What it depends on, as `sets.settings` has it; in a record of an earlier layout there may be less.
        finished: Whether all of it was made.
        differs: The settings in which it differs from other sets of its name, in words; empty if there are none.
    """

    name: str
    ipc: int
    stage: str
    uri: str
    settings: dict[str, Any]
    finished: bool
    differs: str

    @property
    def title(self) -> str:
        """Its name, with what tells it from others of that name."""
        return f"{self.name} ({self.differs})" if self.differs else self.name


def recorded(run: Run) -> list[Recorded]:
    """The sets that a run has made or begun, whatever the recipe says, in the order in which they were begun."""
    stages = sorted(run.record()["stages"].items(), key=lambda stage: str(stage[1]["begun"]))
    found = [(parts, entry) for stage, entry in stages if (parts := _STAGE.fullmatch(stage))]
    made = {parts[0]: sets.as_now(entry["settings"]) | {"ipc": int(parts["ipc"])} for parts, entry in found}
    named = {parts[0]: parts["name"] for parts, _ in found}
    return [
        Recorded(
            name=parts["name"],
            ipc=int(parts["ipc"]),
            stage=parts[0],
            uri=sets.folder(run, parts[0]),
            settings=made[parts[0]],
            finished="finished" in entry,
            differs=_differs(made[parts[0]], [made[stage] for stage in made if named[stage] == parts["name"]]),
        )
        for parts, entry in found
    ]


def _differs(own: dict[str, Any], others: Iterable[dict[str, Any]]) -> str:
    """The settings in which a set differs from any other of its name, in words.

    The composition is one only among those of the same IPC: by default it goes by that.
    """
    same_ipc = [other for other in others if other["ipc"] == own["ipc"]]
    different = {name for other in others for name in own.keys() | other.keys() if own.get(name) != other.get(name)}
    different -= {"ipc", "composition"}
    if any(other.get("composition") != own.get("composition") for other in same_ipc):
        different.add("composition")
    return ", ".join(f"{name}={_said(own[name])}" for name in sorted(different) if name in own)


def _said(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, list):
        few = len(value) <= _NAMED
        return "+".join(value) if few else f"{len(value)} of digest {manifest.class_digest(value)[:8]}"
    return str(value)
