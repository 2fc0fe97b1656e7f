"""Known noise on stderr is held back, and all else comes out as it was written."""

import os
import re
import subprocess
import sys

import pytest

from ddps_ray.pipeline import NOISE
from ddps_ray.pipeline.noise import stderr_without

KNOWN = re.compile(b"worker processes have been started")


def test_lines_with_noise_are_left_out_whoever_writes_them(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_without(KNOWN):
        os.write(2, b"ours\n9 worker processes have been started on node 7\nOSError: a disk is full\n")
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('of a child\\n')"], check=True)
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "ours\nOSError: a disk is full\nof a child\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_what_was_written_comes_out_when_the_work_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with stderr_without(KNOWN):
            os.write(2, b"the reason\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert capfd.readouterr().err == "the reason\n"


def test_no_pattern_matches_a_line_that_a_person_needs() -> None:
    needed = ["ddps: interrupted", "score: 9 of 120 images", "Failed to kill actor 5eed", "OutOfMemoryError: a node"]
    assert [line for line in needed if re.search("|".join(NOISE), line)] == []


CODE = """
import logging, sys
import ray.data
from ddps_ray.pipeline import noise

handler = logging.StreamHandler(sys.stdout)
handler.setLevel(logging.INFO)
logging.getLogger("ray.data").handlers = [handler]
noise.leave_out()
noise.leave_out()
logging.getLogger("ray.data.plan").info("a plan")
logging.getLogger("ray.data.progress").warning("Progress bars disabled")
logging.getLogger("ray.data.exceptions").error("what is raised next")
logging.getLogger("ray.data.exceptions").warning("a warning")
logging.getLogger("ray.data.other").error("another error")
"""


def test_ray_datas_loggers_say_only_what_nobody_else_will() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a warning", "another error"]
