"""What is counted without weights is what the scorer does, and Stable Diffusion's own size comes out right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddps_ray.config import Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.flops import Cost, flops_per_image, rows_per_shard, usual_seconds
from ddps_ray.diffusion.scorer import Item, Scorer


@pytest.mark.parametrize("patch", [32, "full"])
@pytest.mark.parametrize("dift_input", ["patch", "image"])
def test_the_count_is_that_of_a_real_scoring(tiny_sd: Path, patch: int | str, dift_input: str) -> None:
    settings = Score(size=64, patch=patch, pairs=3, dift_input=dift_input)
    scorer = Scorer(checkpoints.load(tiny_sd, "float32", torch.device("cpu")), settings, 0)
    items = [Item(str(place), "leaf", np.full((64, 88, 3), 9, np.uint8)) for place in range(2)]
    scorer.score(items[:1])  # from here on the prompts are known, which are encoded once a class
    # Of the CPU's fused attention the counter knows nothing; its plain form does the same multiplications.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        scorer.score(items)
    cost = flops_per_image(tiny_sd, settings, 88, 64)
    assert 2 * cost.total == counter.get_total_flops()
    assert cost.unet_calls == 6
    assert min(cost.unet, cost.vae, cost.dift) > 0


def test_stable_diffusion_1_5_takes_3_6_tflop_an_image(tiny_sd: Path, tmp_path: Path) -> None:
    for part in ("vae", "text_encoder", "tokenizer", "unet"):
        (tmp_path / part).mkdir()
    text, tokenizer = {"max_position_embeddings": 77, "hidden_size": 768}, {"model_max_length": 77}
    vae = {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    unet = {
        "_class_name": UNet2DConditionModel.__name__,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "layers_per_block": 2,
        "in_channels": 4,
    }
    files = {
        "vae/config": vae,
        "unet/config": unet,
        "text_encoder/config": text,
        "tokenizer/tokenizer_config": tokenizer,
    }
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    cost = flops_per_image(tmp_path, Score(), 256, 256)
    assert cost.unet_calls == 20
    assert cost.unet == pytest.approx(3.6e12, rel=0.01)
    assert cost.vae == pytest.approx(0.27e12, rel=0.02)
    # The feature leaves out the two widest up-blocks, and its patch has (28 / 32)² of the image's positions.
    assert 0.27e12 < cost.dift < 0.27e12 + cost.unet / 20


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        (0.08, 3744),  # 300 s / 0.08 s = 3750 images, of which 234 sixteens
        (0.1, 3008),  # 187.5 sixteens, 188
        (40.0, 16),
        (0.001, 8192),
    ],
)
def test_a_shard_is_about_five_minutes_of_work(seconds: float, rows: int) -> None:
    assert rows_per_shard(Score(), seconds) == rows
    assert rows_per_shard(Score(rows_per_shard=5), seconds) == 5


def test_a_device_that_was_not_timed_is_taken_for_a_usual_one() -> None:
    cost = Cost(unet_calls=20, unet=3_000_000_000_000, vae=600_000_000_000, dift=400_000_000_000)
    assert usual_seconds(cost, gpu=True) == pytest.approx(0.08)  # 4 TFLOP at 50 TFLOP/s
    assert usual_seconds(cost, gpu=False) == pytest.approx(40.0)
