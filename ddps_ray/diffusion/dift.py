"""DIFT: the mean activation of a U-Net block on a slightly noisy latent, as a feature of what is seen (paper, 3.3)."""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ddps_ray.diffusion.checkpoint import Checkpoint


class _Enough(Exception):  # noqa: N818 - not an error: the wanted block has run
    """Ends a forward pass once the wanted block has run."""


class Tap:
    """Takes a block's output and ends the forward pass there.

    Attributes:
        output: What the block gave; None until it has run.
    """

    def __init__(self, block: nn.Module) -> None:
        """Prepares to watch a block; it does so as a context manager."""
        self._block = block
        self.output: Tensor | None = None

    def __enter__(self) -> Self:
        self._handle = self._block.register_forward_hook(self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._handle.remove()
        return kind is _Enough

    def _take(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.output = output
        raise _Enough


@torch.inference_mode()
def features(
    checkpoint: Checkpoint, block: int, timestep: int, latents_NCHW: Tensor, noise_NCHW: Tensor, class_NLD: Tensor
) -> Tensor:
    """Computes feature maps of latents.

    Args:
        checkpoint: The judge.
        block: Index of the U-Net's up-block.
        timestep: t of the noise that is added.
        latents_NCHW: z, float32.
        noise_NCHW: ε.
        class_NLD: Embeddings of the class prompts, the condition.

    Returns:
        N×D×h×w, float32; D is the block's entry in `Geometry.feature_sizes`.
    """
    timesteps_N = torch.full((len(latents_NCHW),), timestep, device=latents_NCHW.device)
    noisy_NCHW = checkpoint.add_noise(latents_NCHW, noise_NCHW, timesteps_N)
    with Tap(checkpoint.unet.up_blocks[block]) as tap:
        checkpoint.unet(noisy_NCHW.to(checkpoint.unet.dtype), timesteps_N, class_NLD)
    if tap.output is None:
        raise RuntimeError(f"up-block {block} did not run")
    return tap.output.float()
