"""Locks that processes of one machine hold on a file; the system lets go of the lock of one that dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ddps_ray.console import say

SHARED, ALONE = fcntl.LOCK_SH, fcntl.LOCK_EX
"""Held together with others who hold it so, or by one process."""


def take(lock: BinaryIO, kind: int, busy: str) -> None:
    """Takes a lock; waits for it where others have it, and says so.

    Args:
        lock: The file, open; closing it lets go.
        kind: `SHARED` or `ALONE`, in place of what this process has of it already.
        busy: What the other process does, for the line that says it.
    """
    if not take_at_once(lock, kind):
        say(f"waiting for another process of this machine, which {busy}")
        fcntl.flock(lock, kind)


def take_at_once(lock: BinaryIO, kind: int) -> bool:
    """Takes a lock unless it would have to wait for it; says whether it has."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def alone(path: Path, busy: str) -> Iterator[None]:
    """Lets one process of this machine in at a time; arguments as of `take`."""
    with path.open("a+b") as lock:
        take(lock, ALONE, busy)
        yield
