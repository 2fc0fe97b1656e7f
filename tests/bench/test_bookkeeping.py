"""`ddps bench bookkeeping` goes through every step, on a hundred images."""

import re
from pathlib import Path

import pytest

from ddps_ray import cli


def test_each_step_is_measured_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "bookkeeping", "--images", "100", "--out", str(tmp_path / "bench")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(0).startswith("bench: starting ddps ")
    assert "bench: 100 images of 100 classes in " in lines[0]
    steps = [re.match(r"(\S.*?) +[\d.]+ s +\d+ MB itself +\d+ MB workers", line) for line in lines[1:]]
    assert [step and step[1] for step in steps] == ["index", "score, 1 of 100 left", "verify", "status"]
    assert not (tmp_path / "bench").exists()
