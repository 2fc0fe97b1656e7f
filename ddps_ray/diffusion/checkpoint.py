"""A Stable Diffusion checkpoint: its shapes, its identity by its weights, and its parts, loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from ddps_ray.diffusion import layout
from ddps_ray.diffusion.staging import BUNDLED as BUNDLED
from ddps_ray.diffusion.staging import PRETRAINED as PRETRAINED
from ddps_ray.diffusion.staging import locate as locate
from ddps_ray.diffusion.staging import pin as pin
from ddps_ray.errors import UserError, first_line

_LOCAL = {"local_files_only": True}


@dataclass(frozen=True)
class Geometry:
    """What a checkpoint's configuration says about shapes.

    Attributes:
        factor: Pixels of the image's side to one latent position.
        feature_sizes: Channels that each of the U-Net's up-blocks gives.
        trained_size: Pixels of the square images that it was trained on; None where it does not say.
    """

    factor: int
    feature_sizes: tuple[int, ...]
    trained_size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a Stable Diffusion model that scoring needs, in eval mode on one device."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    alphas_cumprod_T: Tensor
    predicts_velocity: bool
    geometry: Geometry

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return torch.device(self.unet.device)

    def noise_of(
        self, output_NCHW: Tensor, noisy_NCHW: Tensor, timesteps_N: Tensor, velocity: bool | None = None
    ) -> Tensor:
        """The predicted noise ε_θ, float32, from what the U-Net gives: noise, or velocity v = √ᾱ·ε − √(1−ᾱ)·z.

        Args:
            output_NCHW: The U-Net's output.
            noisy_NCHW: Its input.
            timesteps_N: t.
            velocity: Whether the output is a velocity; None takes what the checkpoint declares.
        """
        if not (self.predicts_velocity if velocity is None else velocity):
            return output_NCHW.float()
        alpha = self.alphas_cumprod_T[timesteps_N][:, None, None, None]
        return alpha.sqrt() * output_NCHW.float() + (1 - alpha).sqrt() * noisy_NCHW.float()

    def add_noise(self, latents_NCHW: Tensor, noise_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
        """Noisy latents √ᾱ·z + √(1−ᾱ)·ε in float32 (paper, Eq. 1, with the scheduler's own noise factor)."""
        alpha = self.alphas_cumprod_T[timesteps_N][:, None, None, None]
        return alpha.sqrt() * latents_NCHW + (1 - alpha).sqrt() * noise_NCHW


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights, tokenizer and configuration files of the five parts: what a score depends on.

    Only files that are loaded count: a half-precision variant beside the weights changes nothing.
    """
    total = hashlib.sha256()
    for part in layout.PARTS:
        for file in sorted((folder / part).iterdir()):
            if file.is_file() and layout.is_loaded(f"{part}/{file.name}"):
                total.update(f"{part}/{file.name}\0".encode())
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def geometry(folder: Path) -> Geometry:
    """Reads the shapes of a located checkpoint without loading it."""
    vae, unet = layout.read_json(folder, "vae/config.json"), layout.read_json(folder, "unet/config.json")
    factor, side = 2 ** (len(vae["block_out_channels"]) - 1), unet.get("sample_size")
    trained_size = factor * side if isinstance(side, int) else None
    return Geometry(factor, tuple(reversed(unet["block_out_channels"])), trained_size)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads the tokenizer of a located checkpoint.

    Raises:
        UserError: It cannot be loaded.
    """
    return _from_pretrained(CLIPTokenizer, folder / "tokenizer", _LOCAL)


def load(folder: Path, dtype: str, device: torch.device) -> Checkpoint:
    """Loads a located checkpoint, safetensors only.

    Raises:
        UserError: A part cannot be loaded, or its weights are damaged or not complete.
    """
    precision = getattr(torch, dtype)
    disable_progress_bar()  # a second's work, of which each actor would tell
    vae = _network(AutoencoderKL, folder / "vae", torch_dtype=precision, low_cpu_mem_usage=False)
    unet = _network(UNet2DConditionModel, folder / "unet", torch_dtype=precision, low_cpu_mem_usage=False)
    text_encoder = _network(CLIPTextModel, folder / "text_encoder", dtype=precision)
    scheduler = _from_pretrained(DDPMScheduler, folder / "scheduler", _LOCAL)
    for part in (vae, unet, text_encoder):
        part.to(device).eval().requires_grad_(False)
    alphas = scheduler.alphas_cumprod.to(device=device, dtype=torch.float32)
    velocity = scheduler.config.prediction_type == "v_prediction"
    return Checkpoint(vae, unet, text_encoder, tokenizer(folder), alphas, velocity, geometry(folder))


def _network(kind: Any, folder: Path, **options: Any) -> Any:
    """Loads a network; what its file lacks would be left at random by the libraries, which only warn of it."""
    fixed = {"use_safetensors": True, "output_loading_info": True, **_LOCAL}
    network, said = _from_pretrained(kind, folder, fixed | options)
    if lacking := sorted(said["missing_keys"]):
        raise UserError(f"model.path: the weights in {folder} are not complete: {lacking[0]} is not among them")
    return network


def _from_pretrained(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        remedy = "get its files again; `ddps pretrain` makes those of its own again"
        raise UserError(f"model.path: {folder} cannot be loaded: {first_line(error)}: {remedy}") from error
