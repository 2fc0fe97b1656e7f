"""Failures of a batch are counted across processes, and a batch that struck out says why."""

from pathlib import Path

from ddps_ray.strikes import OUT, Strikes


def test_a_batch_is_out_after_three_failures_and_no_other_is(tmp_path: Path) -> None:
    folder = str(tmp_path / "absent" / "strikes")
    for failures in range(OUT):
        before = Strikes(folder)
        assert before.out("train/leaf/é 1.png") is None, f"after {failures} failures"
        before.add("train/leaf/é 1.png")
    Strikes(folder).add("train/leaf/2.png")
    after = Strikes(folder)
    assert after.out("train/leaf/é 1.png") == "the GPU failed 3 times on its batch"
    assert after.out("train/leaf/2.png") is None
    assert after.out("train/leaf/3.png") is None
