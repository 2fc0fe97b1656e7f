"""The heartbeat of stage `score`: what its driver last wrote into the run directory."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from ddps_ray import storage
from ddps_ray.console import duration
from ddps_ray.storage import Run

_RECENT = 30.0
"""Seconds since a heartbeat within which its job may still be alive."""

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


@dataclass(frozen=True)
class Beat:
    """One heartbeat.

    Attributes:
        state: `running`, `finished`, `stopped` by a person or `failed`; a job that was killed stays `running`, and
            falls silent.
        total: Images of the training split.
        before: Images that were safe when this job began.
        scored: Images that this job has scored, safe or not yet.
        safe: Images in shards, those of earlier jobs included; a kill does not lose them.
        errors: Those of them with an error in place of a score.
        seconds: That the job has scored for.
        actors: Scoring actors that were alive last, each on its GPU if there are any.
        busy: Share of its time, 0..1, in which an actor was scoring, mean over the actors and the job.
        time: When this was written, ISO 8601, UTC.
    """

    state: str
    total: int
    before: int
    scored: int
    safe: int
    errors: int
    seconds: float
    actors: int
    busy: float
    time: str

    @property
    def rate(self) -> float:
        """Images a second, of all actors together."""
        return self.scored / self.seconds if self.seconds > 0 else 0.0

    @property
    def rate_per_actor(self) -> float:
        """Images a second, of one actor."""
        return self.rate / self.actors if self.actors else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds until all are scored, or None if nothing is known."""
        left = max(0, self.total - self.before - self.scored)
        return left / self.rate if self.rate > 0 else None

    def line(self) -> str:
        """The heartbeat in words."""
        done = min(self.total, max(self.safe, self.before + self.scored))
        parts = [f"{done} of {self.total} images ({self.safe} safe)"]
        if self.rate > 0 and self.actors:
            on = f" on {self.actors} actors" if self.actors > 1 else ""
            parts.append(f"{self.rate:.2f} a second{on}, busy {self.busy:.0%}")
        elif self.state == RUNNING and done < self.total:
            parts.append("no batch is done yet" if self.actors else "no model is loaded yet")
        parts.append(f"{self.errors} errors")
        if self.eta is not None and self.state == RUNNING:
            parts.append(f"about {duration(self.eta)} left")
        return ", ".join(parts)

    def write(self, run: Run) -> None:
        """Writes it into the run directory, over the one before, with the derived figures beside."""
        derived = {"rate": self.rate, "rate_per_actor": self.rate_per_actor, "eta": self.eta}
        storage.write_json(_place(run), asdict(self) | derived)

    @classmethod
    def read(cls, run: Run) -> Self | None:
        """Reads the last one, or None if stage `score` never began, or the file is damaged: the next beat mends it."""
        if not storage.exists(_place(run)):
            return None
        try:
            values: dict[str, Any] = json.loads(storage.read_bytes(_place(run)))
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            return None

    def alive(self) -> bool:
        """Whether the job that wrote it may still be at work."""
        return self.state == RUNNING and self.age() < _RECENT

    def age(self) -> float:
        """Seconds since it was written, by this machine's clock."""
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.time)).total_seconds())


def _place(run: Run) -> str:
    return run.path("progress", "score.json")
