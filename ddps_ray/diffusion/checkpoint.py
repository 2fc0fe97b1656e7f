"""A Stable Diffusion checkpoint on disk or Hub: found, checked, identified by its weights, and loaded."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pyarrow import fs
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ddps_ray import storage
from ddps_ray.config import Model
from ddps_ray.errors import UserError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
BUNDLED = "quickstart"
PRETRAINED = "pretrained"
_WEIGHTS = ("unet", "vae", "text_encoder")
_INDEX = "model_index.json"


@dataclass(frozen=True)
class Geometry:
    """What a checkpoint's configuration says about shapes.

    Attributes:
        factor: Pixels of the image's side to one latent position.
        feature_sizes: Channels that each of the U-Net's up-blocks gives.
    """

    factor: int
    feature_sizes: tuple[int, ...]


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

    def noise_of(self, output_NCHW: Tensor, noisy_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
        """The predicted noise ε_θ, float32, from what the U-Net gives (noise, or velocity v = √ᾱ·ε − √(1−ᾱ)·z)."""
        if not self.predicts_velocity:
            return output_NCHW.float()
        alpha = self.alphas_cumprod_T[timesteps_N][:, None, None, None]
        return alpha.sqrt() * output_NCHW.float() + (1 - alpha).sqrt() * noisy_NCHW.float()

    def add_noise(self, latents_NCHW: Tensor, noise_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
        """Noisy latents √ᾱ·z + √(1−ᾱ)·ε in float32 (paper, Eq. 1, with the scheduler's own noise factor)."""
        alpha = self.alphas_cumprod_T[timesteps_N][:, None, None, None]
        return alpha.sqrt() * latents_NCHW + (1 - alpha).sqrt() * noise_NCHW


def locate(model: Model, pretrained: str) -> Path:
    """Finds the folder of a checkpoint on this machine, fetched first if it is at a URI or on the Hub.

    Args:
        model: The recipe's section.
        pretrained: Folder or URI that `model.path: pretrained` stands for.

    Raises:
        UserError: There is no such folder, or it is not a Stable Diffusion, or one of an unsupported kind.
    """
    names = {BUNDLED: str(resources.files("ddps_ray.quickstart") / "weights"), PRETRAINED: pretrained}
    place = names.get(model.path, model.path)
    if "://" in place:
        folder = _from_store(place)
    elif Path(place).expanduser().is_dir():
        folder = Path(place).expanduser()
    elif model.path in names:
        raise UserError(f"model.path: {model.path}: there is no model in {place}")
    else:
        folder = _from_hub(model)
    _check_layout(folder)
    return folder


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights, tokenizer and configuration files of the five parts: what a score depends on."""
    total = hashlib.sha256()
    for part in PARTS:
        for file in sorted((folder / part).iterdir()):
            if file.is_file() and not file.name.startswith("."):
                total.update(f"{part}/{file.name}\0".encode())
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def geometry(folder: Path) -> Geometry:
    """Reads the shapes of a located checkpoint without loading it."""
    vae = json.loads((folder / "vae" / "config.json").read_text())
    unet = json.loads((folder / "unet" / "config.json").read_text())
    return Geometry(2 ** (len(vae["block_out_channels"]) - 1), tuple(reversed(unet["block_out_channels"])))


def load(folder: Path, dtype: str, device: torch.device) -> Checkpoint:
    """Loads a located checkpoint, safetensors only.

    Raises:
        UserError: A part cannot be loaded.
    """
    precision = getattr(torch, dtype)
    options = {"use_safetensors": True, "local_files_only": True}
    try:
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=precision, **options)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=precision, **options)
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=precision, **options)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler = DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise UserError(f"model.path: {folder} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    for part in (vae, unet, text_encoder):
        part.to(device).eval().requires_grad_(False)
    alphas = scheduler.alphas_cumprod.to(device=device, dtype=torch.float32)
    velocity = scheduler.config.prediction_type == "v_prediction"
    return Checkpoint(vae, unet, text_encoder, tokenizer, alphas, velocity, geometry(folder))


def _from_store(uri: str) -> Path:
    """Copies a checkpoint from a store, once for each state that it has there."""
    files = list(storage.list_files(uri))
    if not files:
        raise UserError(f"model.path: {uri} is not there, or empty")
    state = hashlib.sha256(repr([(file.path, file.size, file.mtime_ns) for file in files]).encode()).hexdigest()
    target = Path("~/.cache/ddps_ray/models").expanduser() / state
    if not target.is_dir():
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            source, path = storage.open_uri(uri)
            fs.copy_files(path, part + "/model", source_filesystem=source, destination_filesystem=fs.LocalFileSystem())
            try:
                (Path(part) / "model").rename(target)
            except OSError:
                if not target.is_dir():  # another actor of this node was faster
                    raise
    return target


def _from_hub(model: Model) -> Path:
    patterns = [_INDEX, *(f"{part}/*.json" for part in PARTS), "tokenizer/*.txt"]
    patterns += [f"{part}/*.safetensors" for part in _WEIGHTS]
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"model.path: {model.path} is neither a folder here nor a model that the Hub gives") from error


def _check_layout(folder: Path) -> None:
    if absent := [part for part in PARTS if not (folder / part).is_dir()]:
        raise UserError(f"model.path: {folder} is not a diffusers Stable Diffusion: it has no {absent[0]} folder")
    try:
        names = json.loads((folder / _INDEX).read_text())
        unet = json.loads((folder / "unet" / "config.json").read_text())
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        channels = json.loads((folder / "vae" / "config.json").read_text()).get("latent_channels")
    except (OSError, ValueError) as error:
        raise UserError(f"model.path: {folder} is not a diffusers Stable Diffusion: {error}") from error
    if "text_encoder_2" in names or unet.get("_class_name") != "UNet2DConditionModel":
        raise UserError(f"model.path: {folder} is a {names.get('_class_name')}; SD 1.x and 2.x layouts are supported")
    if unet.get("in_channels") != channels:
        raise UserError(
            f"model.path: the U-Net of {folder} takes {unet.get('in_channels')} channels, its VAE gives {channels}: "
            "inpainting and the like are not supported"
        )
    if (kind := scheduler.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        raise UserError(f"model.path: {folder} predicts {kind}; epsilon and v_prediction are supported")
