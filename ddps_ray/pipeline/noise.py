"""Known noise that no setting of Ray's leaves out: of its loggers and of its C++ part, in the driver."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

from ddps_ray.pipeline import NOISE

_NOISE = re.compile("|".join(NOISE).encode())

_TOLD_TWICE = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
"""Loggers whose errors say what is about to be raised: it will be said by whoever catches it."""

_STARTS_ACTOR = "_start_actor"
"""Name of the method of Ray Data's that starts an actor of a pool."""


def leave_out() -> None:
    """Leaves known noise out from now on; whatever else goes wrong inside Ray still shows."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.level < logging.WARNING:
            handler.setLevel(logging.WARNING)  # plans and progress are in the log files
            handler.addFilter(_is_news)
    start = getattr(ActorPoolMapOperator, _STARTS_ACTOR)
    if not hasattr(start, "__wrapped__"):
        setattr(ActorPoolMapOperator, _STARTS_ACTOR, _quiet(start))


def _is_news(record: logging.LogRecord) -> bool:
    return "Progress bars disabled" not in record.getMessage() and not (
        record.name in _TOLD_TWICE and record.levelno == logging.ERROR
    )


def _quiet(act: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(act)
    def quiet(*arguments: Any, **named: Any) -> Any:
        with stderr_without(_NOISE):
            return act(*arguments, **named)

    return quiet


@contextmanager
def stderr_without(noise: re.Pattern[bytes]) -> Iterator[None]:
    """Within it, what this process writes to stderr, from C++ too, is held back; the lines without noise come out then.

    Args:
        noise: What a line has that is left out.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if not noise.search(line):
                    os.write(stderr, line)
            os.close(stderr)
