"""How far a job is: a line at intervals; for scoring also JSON in the run directory, where it outlives the cluster.

Ray Data counts what tasks have ended with; what those have done that still run, the workers tell (`tally`).
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ClassVar, Self

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from ddps_ray import shards
from ddps_ray.console import say
from ddps_ray.errors import UserError, first_line
from ddps_ray.inspection.beat import FAILED, FINISHED, RUNNING, STOPPED, Beat
from ddps_ray.pipeline import tally
from ddps_ray.storage import Run


class Watch(ExecutionCallback):  # type: ignore[misc]
    """What Ray Data tells of the scoring operator at each step of its loop; Ray makes the object."""

    scorer: ClassVar[str] = ""
    """Name of the class whose actors score."""
    scored: ClassVar[int] = 0
    """Images of the tasks that have ended."""
    actors: ClassVar[int] = 0
    """How many scored when it last looked; the end of the execution ends them all."""
    begun: ClassVar[float | None] = None
    """When the first actor lived."""
    ended: ClassVar[float | None] = None
    fatal: ClassVar[UserError | None] = None
    """Set to end the execution."""

    @classmethod
    def reset(cls, scorer: str) -> None:
        """Forgets an earlier execution."""
        cls.scorer, cls.scored, cls.actors, cls.begun, cls.ended, cls.fatal = scorer, 0, 0, None, None, None

    def on_execution_step(self, executor: Any) -> None:
        """Takes the operator's figures; ends the execution if it is to end."""
        for operator in executor._topology:
            if self.scorer in operator.name:
                self._take(operator)
                if Watch.fatal is not None:
                    raise Watch.fatal

    def after_execution_succeeds(self, executor: Any) -> None:
        """Stops the clock."""
        Watch.ended = time.monotonic()

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Stops the clock."""
        Watch.ended = time.monotonic()

    @classmethod
    def seconds(cls) -> float:
        """How long actors have scored, or did."""
        return 0.0 if cls.begun is None else (cls.ended or time.monotonic()) - cls.begun

    @staticmethod
    def _take(operator: Any) -> None:
        Watch.scored = operator.metrics.row_outputs_taken
        Watch.actors = operator.get_actor_info().running or Watch.actors
        if Watch.begun is None and Watch.actors:
            Watch.begun = time.monotonic()


class Repeated:
    """Does something at intervals, in a thread of its own, from its start to its stop."""

    def __init__(self, stage: str, act: Callable[[], None], seconds: float) -> None:
        """Takes what to do for a stage, and the interval in seconds."""
        self._stage, self._act, self._seconds = stage, act, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begins with a pause."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and waits for what is being done."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._act()
            except (OSError, UserError) as error:  # the store is slow to answer; the next time tries again
                say(f"{self._stage}: no heartbeat: {first_line(error)}")


@contextmanager
def counted(stage: str, folder: str, total: int, seconds: float) -> Iterator[str]:
    """Within it, says at intervals how many images are done, and how many lie in whole files, which a kill leaves.

    Args:
        stage: Whose they are.
        folder: URI of the files.
        total: Images there are.
        seconds: Interval.

    Yields:
        Name of the tally to which the tasks add the images that they have done.
    """
    footers, name = shards.Footers(folder), f"{stage}-{uuid.uuid4().hex}"
    before = sum(file.rows for file in footers.look()[0])

    def count() -> None:
        found, _ = footers.look()
        safe = min(total, sum(file.rows for file in found))
        done = min(total, max(safe, before + tally.total(name)[0]))
        say(f"{stage}: {done} of {total} images ({safe} safe in {len(found)} files)")

    repeated = Repeated(stage, count, seconds)
    repeated.start()
    try:
        yield name
    finally:
        repeated.stop()
        tally.forget(name)


class Heartbeat:
    """While it is open, says and writes how far scoring is; ends it if too many images fail."""

    def __init__(self, run: Run, scorer: str, total: int, fraction: float, seconds: float = 10.0) -> None:
        """Watches a run.

        Args:
            run: Run directory.
            scorer: Name of the class whose actors score.
            total: Images there are.
            fraction: Share of them that may fail.
            seconds: Interval between heartbeats.
        """
        self._run, self._total, self._fraction = run, total, fraction
        self._footers = shards.Footers(run.path(shards.FOLDER))
        self._scorer = scorer
        self._repeated = Repeated("score", self._tell, seconds)

    def __enter__(self) -> Self:
        Watch.reset(self._scorer)
        tally.forget(tally.SCORED)
        DataContext.get_current().custom_execution_callback_classes.append(Watch)
        self._before = 0
        self._before = self._beat(RUNNING).safe
        if self._before:
            say(f"score: {self._before} of {self._total} were done before; going on with the others")
        self._repeated.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._repeated.stop()
        DataContext.get_current().custom_execution_callback_classes.remove(Watch)
        with suppress(OSError, UserError):  # the last beat must hide neither a failure nor a success
            self._end(kind)
        tally.forget(tally.SCORED)

    def _end(self, kind: type[BaseException] | None) -> None:
        """Writes the last beat; of a job that was told to stop at once, with what is known."""
        if kind is not None and not issubclass(kind, Exception):
            replace(self._last, state=STOPPED, time=_now()).write(self._run)
            return
        self._footers = shards.Footers(self._run.path(shards.FOLDER))  # the conclusion may have changed some
        self._beat(FINISHED if kind is None else FAILED)

    def _tell(self) -> None:
        beat = self._beat(RUNNING)
        say(f"score: {beat.line()}")
        Watch.fatal = too_many(beat.errors, self._total, self._fraction, self._run.path(shards.FOLDER))

    def _beat(self, state: str) -> Beat:
        found, _ = self._footers.look()
        seconds = Watch.seconds()
        told, busy_seconds = tally.total(tally.SCORED)
        beat = Beat(
            state=state,
            total=self._total,
            before=self._before,
            scored=max(Watch.scored, min(told, self._total - self._before)),
            safe=min(self._total, sum(shard.rows for shard in found)),  # some may be there twice, until the conclusion
            errors=sum(shard.errors for shard in found),
            seconds=seconds,
            actors=Watch.actors,
            busy=min(1.0, busy_seconds / (seconds * Watch.actors)) if seconds * Watch.actors else 0.0,
            time=_now(),
        )
        beat.write(self._run)
        self._last = beat
        return beat


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def too_many(errors: int, total: int, fraction: float, where: str) -> UserError | None:
    """The error that ends a job of which too many images fail, or None.

    Args:
        errors: Images that failed.
        total: All images.
        fraction: Share that may fail.
        where: URI of what has the reasons.
    """
    if errors <= fraction * total:
        return None
    return UserError(
        f"score.max_error_fraction: {errors} of {total} images failed, more than {fraction:g}; the reasons are in "
        f"{where}. What is done stays done."
    )
