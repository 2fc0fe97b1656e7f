"""Noise and time steps that belong to an image: drawn from (seed, image id), wherever and whenever it is scored."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, image_id: str, purpose: str) -> torch.Generator:
    """A CPU generator for one image and one purpose; the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{image_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_pairs(
    seed: int, image_id: str, pairs: int, timesteps: tuple[int, int], shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Draws the N pairs of noise and time step of one image (paper, Alg. 1, line 8; the same for both prompts).

    The pairs of a smaller N are the first of those of a larger one.

    Args:
        seed: The run's seed.
        image_id: The image.
        pairs: N.
        timesteps: Range [first, second).
        shape: C, H, W of its latent.

    Returns:
        Noise of shape N×C×H×W, float32, and time steps of shape N, int64.
    """
    steps_N = torch.randint(*timesteps, (pairs,), generator=generator(seed, image_id, "timesteps"))
    source = generator(seed, image_id, "noise")
    noise_NCHW = torch.stack([torch.randn(shape, generator=source) for _ in range(pairs)])
    return noise_NCHW, steps_N


def draw_noise(seed: int, image_id: str, shape: Sequence[int]) -> Tensor:
    """Draws the one noise map under which an image's diffusion feature is taken: C×H×W, float32."""
    return torch.randn(shape, generator=generator(seed, image_id, "dift"))
