"""`ddps pretrain` on a real Ray Train: it makes a model that `ddps score` uses, and goes on after a SIGKILL."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from diffusers import StableDiffusionPipeline

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.pipeline import index, pretrain, score
from ddps_ray.storage import Run
from tests.diffusion.test_pretraining import small_training
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


def _with_model(recipe: Recipe, path: str) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": path})})


@pytest.mark.usefixtures("ray_session")
def test_a_pretrained_model_scores_its_data(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = config.load(_write(tmp_path, scenes, 20))
    index.run(recipe)
    pretrain.run(recipe)
    StableDiffusionPipeline.from_pretrained(f"{recipe.run_dir}/pretrain/model")
    for path in ("pretrained", "/nowhere/sd"):  # whichever model scores, it is this stage's own that counts
        pretrain.run(_with_model(recipe, path))
        said = capsys.readouterr().out
        assert "pretrain: already finished" in said
        assert "training it again" not in said
    score.run(recipe)
    assert Run(recipe.run_dir).require("score", "score")["scored"] == 120
    shutil.rmtree(f"{recipe.run_dir}/pretrain/model")
    assert not pretrain._is_whole(_with_model(recipe, "quickstart"), Run(recipe.run_dir))


def test_the_loss_that_is_recorded_does_not_depend_on_the_clock(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def advanced(seconds: float) -> float:
        training = small_training(scenes, vae_steps=60)
        return pretrain._advance(training, 60, speak=True, seconds=seconds).loss

    steps = small_training(scenes, vae_steps=60)
    each = [steps.advance(1).loss for _ in range(60)]
    assert advanced(1e9) == pytest.approx(fmean(each[-50:]), rel=1e-4)
    assert capsys.readouterr().out.count("pretrain: vae step") == 2
    assert advanced(0.0) == pytest.approx(fmean(each[-50:]), rel=1e-4)
    assert capsys.readouterr().out.count("pretrain: vae step") == 12


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
