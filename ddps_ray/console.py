"""What a person sees while a stage works: one plain line at a time, at once."""

import time


def say(text: str) -> None:
    """Prints a line without delay."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """A time span in the unit that a person would use."""
    minutes = round(seconds / 60)
    if minutes < 10:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class Ticker:
    """Says something at most once in a while, so that progress is visible and the log stays short."""

    def __init__(self, seconds: float = 10.0) -> None:
        """Sets the least time between two lines."""
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """True if the time has come for another line; starts the next wait."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
