"""Checkpoints in the layouts in which Stable Diffusion is published load, and one that is damaged is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from ddps_ray.config import Model, Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.prompts import Prompts
from ddps_ray.diffusion.scorer import Item, Scored, Scorer
from ddps_ray.errors import UserError
from tests.diffusion.layouts import TEXT, UNET, VAE, add_variants, sd1, sd2

CPU = torch.device("cpu")


def _score(folder: Path) -> Scored:
    located = checkpoints.locate(Model(path=str(folder)), "")
    scorer = Scorer(checkpoints.load(located, "float32", CPU), Score(size=64, patch=32, pairs=2), 0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return scorer.score([Item("a", "leaf", pixels)])[0]


def test_the_layout_of_sd_1_gives_the_same_scores(tiny_sd: Path, tmp_path: Path) -> None:
    old, new = _score(sd1(tiny_sd, tmp_path / "old")), _score(tiny_sd)
    np.testing.assert_allclose(old.terms_NHW, new.terms_NHW, atol=1e-6)
    np.testing.assert_allclose(old.dift_D, new.dift_D, atol=1e-6)
    assert np.abs(new.terms_NHW).max() > 1e-3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_layout_of_sd_2_is_what_diffusers_makes_of_it(tiny_sd: Path, tmp_path: Path, prediction: str) -> None:
    folder = sd2(tiny_sd, tmp_path / "sd2", prediction)
    loaded = checkpoints.load(checkpoints.locate(Model(path=str(folder)), ""), "float32", CPU)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    latent, noise = torch.randn(2, 1, 4, 16, 16, generator=generator)
    step = torch.tensor([400])
    words = Prompts(loaded, "An image of {}", "An image of .").of("leaf")[None]
    with torch.no_grad():
        expected_words = pipe.encode_prompt("An image of leaf", "cpu", 1, False)[0]
        noisy = pipe.scheduler.add_noise(latent, noise, step)
        output = pipe.unet(noisy, step, expected_words).sample
    torch.testing.assert_close(words, expected_words)
    assert loaded.predicts_velocity == (prediction == "v_prediction")
    alpha = pipe.scheduler.alphas_cumprod[400]
    velocity = alpha.sqrt() * output + (1 - alpha).sqrt() * noisy
    found = loaded.noise_of(loaded.unet(noisy, step, words).sample, noisy, step)
    torch.testing.assert_close(found, velocity if loaded.predicts_velocity else output, atol=1e-5, rtol=0)


def test_variants_beside_the_weights_do_not_change_what_a_model_is(tiny_sd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    add_variants(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    assert checkpoints.fingerprint(folder) == checkpoints.fingerprint(tiny_sd)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT, "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"])
def test_every_file_that_is_loaded_is_part_of_what_a_model_is(tiny_sd: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(tiny_sd, tmp_path / "model")
    with (tmp_path / "model" / file).open("ab") as stream:
        stream.write(b" ")
    assert checkpoints.fingerprint(tmp_path / "model") != checkpoints.fingerprint(tiny_sd)


def test_the_bundled_model_keeps_its_identity() -> None:
    """Run directories remember it: another value makes every one of them refuse to go on."""
    folder = checkpoints.locate(Model(path="quickstart"), "")
    assert checkpoints.fingerprint(folder) == "0af2f7daf60be56129ff4d40c47ed44b213566e0f9fbf2a266eff8beb748a5ee"


@pytest.mark.parametrize("size", [0, 3, 5000, -2])
@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_weights_that_were_cut_off_are_named(tiny_sd: Path, tmp_path: Path, file: str, size: int) -> None:
    shutil.copytree(tiny_sd, tmp_path / "model")
    damaged = tmp_path / "model" / file
    damaged.write_bytes(damaged.read_bytes()[:size])
    with pytest.raises(UserError, match=rf"^model\.path: {damaged.parent} cannot be loaded: .+$"):
        checkpoints.load(tmp_path / "model", "float32", CPU)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_weights_that_lack_a_tensor_are_not_filled_up_at_random(tiny_sd: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(tiny_sd, tmp_path / "model")
    weights = load_file(tiny_sd / file)
    key = next(key for key in weights if key.endswith("weight"))
    del weights[key]
    save_file(weights, tmp_path / "model" / file, {"format": "pt"})
    with pytest.raises(UserError, match=f"not complete: {key} is not among them"):
        checkpoints.load(tmp_path / "model", "float32", CPU)


def test_a_file_that_is_no_json_is_named(tiny_sd: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd, tmp_path / "model")
    (tmp_path / "model" / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"unet/config.json is not JSON"):
        checkpoints.locate(Model(path=str(tmp_path / "model")), "")
