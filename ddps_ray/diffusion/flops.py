"""What scoring an image costs in floating-point operations, counted on a checkpoint's configuration alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddps_ray.config import Score
from ddps_ray.diffusion import dift
from ddps_ray.diffusion.layout import read_json

_SHARD_SECONDS = 300
REACHED = {True: 50e12, False: 0.1e12}
"""Operations a second that are usually reached on a GPU, and on a CPU."""
_SHARD_ROWS = (16, 8192)
_SHARD_STEP = 16


@dataclass(frozen=True)
class Cost:
    """Operations that scoring one image takes; a multiplication and an addition are two.

    The prompts are not in it: each is encoded once a class, not once an image.

    Attributes:
        unet_calls: Latents that go through the whole U-Net, 2N: each pair with the class and without.
        unet: FLOPs of these calls.
        vae: FLOPs of the VAE's encoding of the image.
        dift: FLOPs of the diffusion feature: the U-Net up to its block and, where the patch is embedded by itself, the
            VAE's encoding of the patch.
    """

    unet_calls: int
    unet: int
    vae: int
    dift: int

    @property
    def total(self) -> int:
        """All FLOPs of an image."""
        return self.unet + self.vae + self.dift


def flops_per_image(folder: Path, settings: Score, width: int, height: int) -> Cost:
    """Counts what scoring one image takes; nothing is computed and no weights are read.

    Args:
        folder: A located checkpoint.
        settings: Settings of the scoring.
        width: Pixels of the scaled image, a multiple of the VAE's scale factor.
        height: The same.
    """
    networks = _Networks(folder)
    calls = 2 * settings.pairs
    if settings.dift_input == "image":
        feature = networks.feature(width, height, settings.dift_block)
    else:
        patch = (width, height) if settings.patch == "full" else (settings.patch, settings.patch)
        feature = networks.encoding(*patch) + networks.feature(*patch, settings.dift_block)
    return Cost(calls, calls * networks.call(width, height), networks.encoding(width, height), feature)


def rows_per_shard(settings: Score, seconds: float) -> int:
    """Images in a committed file, what a kill can cost: as the settings say, or five minutes of an actor's work.

    Args:
        settings: Settings of the scoring.
        seconds: Time that an actor takes for one image.

    Returns:
        By default a multiple of 16 from 16 to 8192.
    """
    if settings.rows_per_shard is not None:
        return settings.rows_per_shard
    least, most = _SHARD_ROWS
    return min(most, max(least, round(_SHARD_SECONDS / seconds / _SHARD_STEP) * _SHARD_STEP))


def usual_seconds(cost: Cost, gpu: bool) -> float:
    """Time for one image where nothing has measured it: at the operations a second that devices usually reach."""
    return cost.total / REACHED[gpu]


class _Networks:
    """U-Net and VAE on the meta device, where tensors have a shape and no values."""

    def __init__(self, folder: Path) -> None:
        with torch.device("meta"):
            self._unet = UNet2DConditionModel.from_config(read_json(folder, "unet/config.json"))
            self._vae = AutoencoderKL.from_config(read_json(folder, "vae/config.json"))
        self._factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        text, tokenizer = (
            read_json(folder, "text_encoder/config.json"),
            read_json(folder, "tokenizer/tokenizer_config.json"),
        )
        self._words = (
            min(tokenizer.get("model_max_length", text["max_position_embeddings"]), text["max_position_embeddings"]),
            text["hidden_size"],
        )

    def call(self, width: int, height: int) -> int:
        """FLOPs of the U-Net on one latent."""
        return _count(lambda: self._forward(width, height))

    def feature(self, width: int, height: int, block: int) -> int:
        """FLOPs of the U-Net on one latent up to an up-block's output."""

        def part() -> None:
            with dift.Tap(self._unet.up_blocks[block]):
                self._forward(width, height)

        return _count(part)

    def encoding(self, width: int, height: int) -> int:
        """FLOPs of the VAE on one image."""
        return _count(lambda: self._vae.encode(_empty(1, 3, height, width)))

    def _forward(self, width: int, height: int) -> None:
        latent = _empty(1, self._unet.config.in_channels, height // self._factor, width // self._factor)
        self._unet(latent, _empty(1), _empty(1, *self._words))


def _count(work: Callable[[], object]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
