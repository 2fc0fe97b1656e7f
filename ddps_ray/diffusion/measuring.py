"""How fast a device scores: timed, on synthetic images."""

import time
from pathlib import Path

import numpy as np
import torch

from ddps_ray.config import Recipe
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.scorer import Item, Scorer


def measure(folder: Path, recipe: Recipe, device: torch.device, width: int, height: int, batches: int = 3) -> float:
    """Times the scoring of batches of noise, after one that warms up; decoding and writing are not in it.

    Args:
        folder: A located checkpoint.
        recipe: Its sections `model` and `score` say how.
        device: Where.
        width: Pixels of the images, a multiple of the VAE's scale factor.
        height: The same.
        batches: Batches of `score.batch` images that are timed.

    Returns:
        Seconds an image.

    Raises:
        UserError: The model cannot be loaded, or the settings do not suit it.
    """
    scorer = Scorer(checkpoints.load(folder, recipe.model.dtype, device), recipe.score, recipe.seed)
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    items = [Item(str(place), "thing", pixels_HWC) for place in range(recipe.score.batch)]
    scorer.score(items)
    begun = time.perf_counter()
    for _ in range(batches):
        scorer.score(items)  # its results are on the CPU, so nothing of it is still under way
    return (time.perf_counter() - begun) / (batches * len(items))
