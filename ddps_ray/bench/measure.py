"""Time and peak memory of a command and of the processes that it begins."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ddps_ray.errors import UserError, first_line

_EVERY = 0.05


@contextmanager
def folder_of(out: str) -> Iterator[Path]:
    """Makes the folder that a bench works in, and deletes it in the end.

    Raises:
        UserError: It is there already, or cannot be made.
    """
    place = Path(out)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be made: {first_line(error)}") from error
    try:
        yield place
    finally:
        shutil.rmtree(place)


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: From its start to its end.
        own: Peak bytes of the memory of its own process.
        others: Peak bytes of the memory of all the processes that it began together, without what they share.
        output: What it printed.
    """

    seconds: float
    own: int
    others: int
    output: str


def measure(command: Sequence[str], codes: Sequence[int] = (0,)) -> Measured:
    """Runs a command with this Python.

    Args:
        command: Its words after `python`.
        codes: Exit codes that are as they should be.

    Raises:
        RuntimeError: It ended with another; the message ends with its output.
    """
    begun = time.monotonic()
    words = [sys.executable, *command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
    peaks = [0, 0]
    sampler = threading.Thread(target=_sample, args=(process, peaks), daemon=True)
    sampler.start()
    output, _ = process.communicate()
    sampler.join()
    if process.returncode not in codes:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output[-3000:]}")
    return Measured(time.monotonic() - begun, peaks[0], peaks[1], output)


def _sample(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        own, *others = map(_private, family)
        peaks[:] = [max(peaks[0], own), max(peaks[1], sum(others))]
        time.sleep(_EVERY)


def _private(process: psutil.Process) -> int:
    """Bytes that a process does not share: Ray's object store is mapped into every worker."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - memory.shared)
