"""From pixels to latents."""

import numpy as np
import torch
from torch import Tensor

from ddps_ray.diffusion.checkpoint import Checkpoint
from ddps_ray.diffusion.micro_batch import MicroBatch


@torch.inference_mode()
def encode(checkpoint: Checkpoint, pixels_NHWC: np.ndarray, calls: MicroBatch) -> Tensor:
    """Latents of images of one size: the mean of the VAE's posterior times its scaling factor, float32.

    Args:
        checkpoint: The judge.
        pixels_NHWC: Images, uint8 RGB; their sides are multiples of the VAE's scale factor.
        calls: How many images in one call.

    Raises:
        UserError: The memory does not suffice for a single image.
    """
    vae = checkpoint.vae

    def some(chunk: slice) -> Tensor:
        images = torch.from_numpy(pixels_NHWC[chunk]).permute(0, 3, 1, 2).to(checkpoint.device, vae.dtype)
        latents: Tensor = vae.encode(images / 127.5 - 1).latent_dist.mean.float() * vae.config.scaling_factor
        return latents

    return calls.over(len(pixels_NHWC), some)
