"""How much workers have done inside of tasks that still run: Ray tells a driver only of those that have ended.

Each process keeps its sum in the store of keys and values that every Ray cluster has; the driver adds them up.
"""

import time
from contextlib import suppress
from functools import cache

import ray
from ray.experimental import internal_kv

SCORED, EPOCHS, LABELLED = "score", "evaluate", "relabel"
"""Tallies of images that scoring actors have scored, that students have seen in whole epochs, that have labels stored.
"""

_NAMESPACE = "ddps_ray"
_PAUSE = 1.0
"""Seconds between two messages of a process at least."""

# What Ray's client raises where the head does not answer: a count that is late must not end any work.
_UNHEARD = (ray.exceptions.RaySystemError, ray.exceptions.RpcError, OSError)


class Tally:
    """What this process has done for one purpose, e.g. images scored."""

    def __init__(self, name: str) -> None:
        """Begins at nothing; an actor that takes the place of a dead one takes back what that had counted."""
        context = ray.get_runtime_context()
        self._key = f"{_prefix(name)}{context.get_actor_id() or context.get_worker_id()}"
        self._count, self._seconds, self._sent = 0, 0.0, 0.0

    def add(self, count: int, seconds: float = 0.0) -> None:
        """Adds to what was done, and the time that it took; the driver knows of it in a second."""
        self._count, self._seconds = self._count + count, self._seconds + seconds
        if time.monotonic() - self._sent > _PAUSE:
            self._sent = time.monotonic()
            with suppress(*_UNHEARD):
                internal_kv._internal_kv_put(self._key, f"{self._count} {self._seconds}", namespace=_NAMESPACE)


@cache
def of_this_process(name: str) -> Tally:
    """The one tally of this name that a process which runs one task after another adds to."""
    return Tally(name)


def total(name: str) -> tuple[int, float]:
    """What all processes of this job have done by now, and the seconds that it took them together."""
    with suppress(*_UNHEARD):
        keys = internal_kv._internal_kv_list(_prefix(name), namespace=_NAMESPACE)
        said = [internal_kv._internal_kv_get(key, namespace=_NAMESPACE) for key in keys]
        parts = [each.decode().split() for each in said if each]
        return sum(int(count) for count, _ in parts), sum(float(seconds) for _, seconds in parts)
    return 0, 0.0


def forget(name: str) -> None:
    """Forgets what was counted, before the driver begins anew, and when it is done."""
    with suppress(*_UNHEARD):
        internal_kv._internal_kv_del(_prefix(name), del_by_prefix=True, namespace=_NAMESPACE)


def _prefix(name: str) -> str:
    return f"{ray.get_runtime_context().get_job_id()}/{name}/"
