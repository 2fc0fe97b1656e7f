"""`ddps pretrain` on a real Ray Train: it makes a model that `ddps score` uses, and goes on after a SIGKILL."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from diffusers import StableDiffusionPipeline

from ddps_ray import config
from ddps_ray.pipeline import index, pretrain, score
from ddps_ray.storage import Run
from tests.faults.nodes import until


def _write(folder: Path, scenes: Path, unet_steps: int) -> Path:
    values = {
        "run_dir": str(folder / "run"),
        "data": {"root": str(scenes), "val": None},
        "model": {"path": "pretrained"},
        "score": {"size": 64, "patch": 32, "pairs": 1, "judge": "skip"},
        "pretrain": {
            "vae_channels": [8, 8, 8],
            "unet_channels": [8, 16],
            "text_width": 16,
            "text_layers": 1,
            "vae_steps": 10,
            "unet_steps": unet_steps,
            "unet_batch": 4,
            "checkpoint_every": 50,
        },
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.usefixtures("ray_session")
def test_a_pretrained_model_scores_its_data(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = config.load(_write(tmp_path, scenes, 20))
    index.run(recipe)
    pretrain.run(recipe)
    StableDiffusionPipeline.from_pretrained(f"{recipe.run_dir}/pretrain/model")
    pretrain.run(recipe)
    assert "pretrain: already finished" in capsys.readouterr().out
    score.run(recipe)
    assert Run(recipe.run_dir).require("score", "score")["scored"] == 120


def test_a_killed_pretraining_goes_on_from_its_checkpoint(scenes: Path, tmp_path: Path) -> None:
    file = _write(tmp_path, scenes, 800)
    command = [sys.executable, "-m", "ddps_ray.cli"]
    subprocess.run([*command, "index", "--config", str(file)], check=True)
    first = subprocess.Popen([*command, "pretrain", "--config", str(file)], start_new_session=True)
    kept = tmp_path / "run" / "checkpoints" / "pretrain" / "checkpoint_manager_snapshot.json"  # Ray Train's
    try:
        until(lambda: first.poll() is not None or (kept.exists() and "unet" in kept.read_text()), "a kept checkpoint")
        assert first.poll() is None, "the training was over before"
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    done = subprocess.run(
        [*command, "pretrain", "--config", str(file)], check=True, capture_output=True, text=True, timeout=300
    )
    said = [line for line in done.stdout.splitlines() if " step " in line]
    assert not any("vae step" in line for line in said), "the VAE was trained again"
    assert "unet step 800 of 800" in said[-1]
    first_step = int(said[0].split("unet step ")[1].split(" ")[0])
    assert first_step > 50, "it began anew"
