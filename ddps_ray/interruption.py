"""SIGTERM, as `ray job stop` and batch systems send it, taken for Ctrl-C."""

import signal
import threading


def take_sigterm() -> None:
    """Makes SIGTERM raise KeyboardInterrupt, as SIGINT does; to be called again after Ray has begun, which takes it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
