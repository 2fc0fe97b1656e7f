"""The errors by which a model is tried: those of a plain loop, whatever else is in the batch."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ddps_ray.config import Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.checkpoint import Checkpoint
from ddps_ray.diffusion.judging import Contests
from ddps_ray.diffusion.noise import draw_pairs
from ddps_ray.diffusion.scorer import Item
from tests.diffusion.layouts import edit

SETTINGS = Score(size=64, patch=32, pairs=3, timesteps=(200, 800), micro_batch=5)
SEED = 4
ZEROS = "a model that gives zeros"


def items(sides: list[tuple[int, int]]) -> list[Item]:
    draw = np.random.default_rng(0)
    return [Item(f"train/{n}", "fish", draw.integers(0, 256, (*side, 3), np.uint8)) for n, side in enumerate(sides)]


@torch.inference_mode()
def plain_error(judge: Checkpoint, item: Item, text: str, pair: int, timestep: int | None, velocity: bool) -> float:
    """Error of one latent under one prompt, from the definitions."""
    pixels = torch.from_numpy(item.pixels_HWC.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    latent = judge.vae.encode(pixels).latent_dist.mean * judge.vae.config.scaling_factor
    noise, steps = draw_pairs(SEED, item.image_id, 3, SETTINGS.timesteps, latent.shape[1:])
    t = torch.tensor([timestep if timestep is not None else int(steps[pair])])
    alpha = judge.alphas_cumprod_T[t].item()
    noisy = alpha**0.5 * latent + (1 - alpha) ** 0.5 * noise[pair : pair + 1]
    length = min(judge.tokenizer.model_max_length, judge.text_encoder.config.max_position_embeddings)
    tokens = judge.tokenizer(f"An image of {text}", padding="max_length", max_length=length, truncation=True)
    words = judge.text_encoder(torch.tensor([tokens.input_ids])).last_hidden_state
    output = 0 * noisy if text == ZEROS else judge.unet(noisy, t, words).sample
    predicted = alpha**0.5 * output + (1 - alpha) ** 0.5 * noisy if velocity else output
    return float(((predicted - noise[pair : pair + 1]) ** 2).mean())


@pytest.mark.parametrize("velocity", [False, True])
def test_errors_are_those_of_a_plain_loop(tiny_sd: Path, tmp_path: Path, velocity: bool) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction" if velocity else "epsilon")
    judge = checkpoints.load(folder, "float32", torch.device("cpu"))
    images, names = items([(64, 64), (64, 80), (64, 64)]), ["fish", "leaf"]
    held = Contests(judge, SETTINGS, SEED, pairs=2).hold(images, [names] * 3)
    for item, contest in zip(images, held, strict=True):
        expected = [
            np.mean([plain_error(judge, item, name, pair, None, velocity) for pair in (0, 1)]) for name in names
        ]
        assert contest.errors_K == pytest.approx(expected, rel=1e-4)
        for found, read in ((contest.middle, velocity), (contest.misread, not velocity)):
            error, without = (plain_error(judge, item, text, 0, 500, read) for text in ("fish", ZEROS))
            assert found == pytest.approx(error / without, rel=1e-4)
        assert contest.seconds > 0
