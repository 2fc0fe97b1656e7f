"""Pretraining can stop anywhere, learns, whitens its latents, and saves what StableDiffusionPipeline loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from ddps_ray.config import Pretrain
from ddps_ray.diffusion.pretraining import Pretraining
from ddps_ray.diffusion.saving import save
from ddps_ray.diffusion.small import train_tokenizer

NAMES = ["leaf", "fish"]
SETTINGS = Pretrain(
    size=32,
    vae_channels=(8, 8),
    unet_channels=(8, 16),
    text_width=16,
    text_layers=1,
    vae_steps=6,
    unet_steps=6,
    vae_batch=4,
    unet_batch=4,
)


def small_training(scenes: Path, **changes: object) -> Pretraining:
    """One of two classes that takes no time; `changes` of its settings."""
    files = [path for name in NAMES for path in sorted((scenes / "train" / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(file).resize((32, 32))) for file in files])
    labels = torch.tensor([NAMES.index(file.parent.name) for file in files])
    return Pretraining(
        SETTINGS.model_copy(update=changes),
        (100, 700),
        [f"An image of {name}" for name in NAMES],
        "An image of .",
        torch.tensor(pixels).permute(0, 3, 1, 2).contiguous(),
        labels,
        device=torch.device("cpu"),
    )


def _run(training: Pretraining, steps: int = 100) -> None:
    while training.phase is not None:
        training.advance(steps)


def _weights(training: Pretraining) -> dict[str, torch.Tensor]:
    parts = training.finish()
    return {f"{k}": v for part in (parts.vae, parts.unet, parts.text_encoder) for k, v in part.state_dict().items()}


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_going_on_from_a_state_ends_where_an_undisturbed_training_does(scenes: Path, tmp_path: Path, stop: int) -> None:
    whole = small_training(scenes)
    _run(whole)
    first = small_training(scenes)
    for _ in range(stop):
        first.advance(1)
    torch.save(first.state(), tmp_path / "state.pt")
    second = small_training(scenes)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    _run(second)
    expected = _weights(whole)
    for key, weight in _weights(second).items():
        torch.testing.assert_close(weight, expected[key], atol=1e-6, rtol=0, msg=key)


def test_both_losses_fall(scenes: Path) -> None:
    training = small_training(scenes, vae_steps=80, unet_steps=120)
    losses: dict[str, list[float]] = {"vae": [], "unet": []}
    while training.phase is not None:
        progress = training.advance(20)
        losses[progress.phase].append(progress.loss)
    assert losses["vae"][-1] < 0.7 * losses["vae"][0]
    assert losses["unet"][-1] < 0.8 * losses["unet"][0]
    assert len(losses["unet"]) == 6


def test_latents_are_white_and_the_images_they_stand_for_stay(scenes: Path) -> None:
    training = small_training(scenes, vae_steps=40, flip=False)
    training.advance(40)
    latents = training._views()[0]
    scale = training.parts.vae.config.scaling_factor
    np.testing.assert_allclose(latents.mean((0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(latents.std((0, 2, 3)), scale, atol=1e-2 * scale)
    images = training._images[:4].float() / 127.5 - 1
    vae = training.parts.vae
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        vae.quant_conv.weight *= 3.0  # latents three times as large, and decoded as such; then whitened again
        vae.quant_conv.bias *= 3.0
        vae.post_quant_conv.weight /= 3.0
        training._whiten()
        after = vae.decode(vae.encode(images).latent_dist.mean).sample
    torch.testing.assert_close(before, after, atol=1e-2, rtol=0)


def test_words_of_the_prompts_are_one_token_each_and_others_are_spelled() -> None:
    tokenizer = train_tokenizer(["An image of .", "An image of king penguin", "An image of fish"])
    words = ["an</w>", "image</w>", "of</w>", "king</w>", "penguin</w>"]
    assert tokenizer.tokenize("An image of king penguin") == words
    assert tokenizer.decode(tokenizer("zebra").input_ids, skip_special_tokens=True).replace(" ", "") == "zebra"
    assert tokenizer.model_max_length == 8


def test_a_saved_model_loads_as_stable_diffusion_and_draws(scenes: Path, tmp_path: Path) -> None:
    training = small_training(scenes)
    _run(training)
    save(training.finish(), tmp_path / "model")
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("An image of fish", num_inference_steps=2).images[0].size == (32, 32)
