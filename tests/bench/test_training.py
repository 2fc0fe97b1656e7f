"""`ddps bench training`: that it measures two loops which do the same, and leaves nothing."""

import re
from pathlib import Path

import pytest

from ddps_ray import cli
from ddps_ray.bench import training
from ddps_ray.bench.training import Case


def test_both_loops_come_to_the_same_losses() -> None:
    found = training.compare(Case("convnet2", 16), rounds=3, steps=1)
    assert found.loss > 0.1, "there is something to compare"
    assert found.difference < 1e-5 * found.loss


def test_steps_memory_and_the_second_load_are_said_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPS_CACHE", str(tmp_path / "cache"))
    words = ["bench", "training", "--students", "convnet2@16", "--rounds", "1", "--steps", "1", "--images", "30"]
    assert cli.main([*words, "--out", str(tmp_path / "bench")]) == 0
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("bench: 1 turns of 1 steps for each loop, teacher resnet18, on ")
    loop = r"[\d.]+ steps/s, +[1-9]\d+ MB"
    assert re.match(rf"convnet2, 16 px, \w+ +ours +{loop} +plain +{loop} +ratio [\d.]+ +loss [\d.]+ ± \S+$", lines[0])
    assert re.match(
        r"30 validation images at 224 px: decoded in [\d.]+ s, loaded again from the cache in [\d.]+ s$", lines[-1]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("resnet18", "--students: 'resnet18' is not <architecture>@<pixels>, such as resnet18@224"),
        ("@64", "--students: '@64' is not <architecture>@<pixels>"),
        ("resnet18@0", "--students: 'resnet18@0' is not <architecture>@<pixels>"),
        ("nosuchnet@64", "there is no network 'nosuchnet'"),
        ("convnet4@50", "convnet4 halves its input 4 times, which 50 px do not allow"),
    ],
)
def test_what_is_no_student_is_refused_before_anything_is_made(
    student: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "training", "--students", student, "--out", str(tmp_path / "bench")]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
