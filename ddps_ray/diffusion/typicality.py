"""Typicality T = E[L(∅) − L(c)]: where an image's noise is easier to predict when the class is known (paper, Eq. 6)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddps_ray.diffusion.checkpoint import Checkpoint


@dataclass(frozen=True)
class Patch:
    """A window of latent positions.

    Attributes:
        row: First row.
        column: First column.
        height: Rows.
        width: Columns.
        typicality: Mean T inside.
    """

    row: int
    column: int
    height: int
    width: int
    typicality: float


@torch.inference_mode()
def typicality_terms(
    checkpoint: Checkpoint,
    latents_NCHW: Tensor,
    noise_NCHW: Tensor,
    timesteps_N: Tensor,
    null_NLD: Tensor,
    class_NLD: Tensor,
) -> Tensor:
    """Computes D = mean over channels of (ε_θ(z_t, t, ∅) − ε)² − (ε_θ(z_t, t, c) − ε)².

    Args:
        checkpoint: The judge.
        latents_NCHW: z, float32, on its device; one row for each (image, noise, time step).
        noise_NCHW: ε.
        timesteps_N: t.
        null_NLD: Embeddings of the null prompt.
        class_NLD: Embeddings of the class prompts.

    Returns:
        D of shape N×H×W, float32 whatever the U-Net's precision is.
    """
    noisy_NCHW = checkpoint.add_noise(latents_NCHW, noise_NCHW, timesteps_N)
    output_NCHW = checkpoint.unet(
        torch.cat([noisy_NCHW, noisy_NCHW]).to(checkpoint.unet.dtype),
        torch.cat([timesteps_N, timesteps_N]),
        torch.cat([null_NLD, class_NLD]),
    ).sample
    null_error, class_error = (
        (checkpoint.noise_of(half, noisy_NCHW, timesteps_N) - noise_NCHW).square().mean(1)
        for half in output_NCHW.chunk(2)
    )
    difference: Tensor = null_error - class_error
    return difference


def most_typical_patch(map_HW: Tensor, height: int, width: int) -> Patch:
    """Finds the window of the highest mean T, stride 1; of equal ones the first, row by row (paper, Alg. 1, line 12).

    Args:
        map_HW: T at every latent position, float32.
        height: Rows of the window.
        width: Columns of the window.
    """
    means_HW = F.avg_pool2d(map_HW[None, None], (height, width), stride=1)[0, 0]
    best = int(means_HW.argmax())
    row, column = divmod(best, means_HW.shape[1])
    return Patch(row, column, height, width, float(means_HW[row, column]))
