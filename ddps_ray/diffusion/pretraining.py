"""Training of a small latent diffusion model: first the VAE, then U-Net and text encoder on its cached latents."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from ddps_ray.config import Pretrain
from ddps_ray.diffusion.small import Parts, build

Wrap = Callable[[nn.Module], nn.Module]
"""Prepares a module for distributed training; Ray Train's `prepare_model`, or nothing."""

_KL_WEIGHT = 1e-5
_L1_WEIGHT = 0.3
_WARM_UP = 100
_LEAST_LR = 0.02


class Reconstruction(nn.Module):
    """The VAE with its training loss: squared and absolute error, and a little KL divergence from the unit normal."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images_NCHW: Tensor, noise_NCHW: Tensor) -> Tensor:
        """Loss of a batch of images in [-1, 1]; `noise_NCHW` is unit normal, of the latents' shape."""
        latents = self.vae.encode(images_NCHW).latent_dist
        restored_NCHW = self.vae.decode(latents.mean + latents.std * noise_NCHW).sample
        error = F.mse_loss(restored_NCHW, images_NCHW) + _L1_WEIGHT * F.l1_loss(restored_NCHW, images_NCHW)
        kl = 0.5 * (latents.mean**2 + latents.var - 1 - latents.logvar).mean()
        loss: Tensor = error + _KL_WEIGHT * kl
        return loss


class Denoising(nn.Module):
    """U-Net and text encoder with the noise-prediction loss (paper, Eq. 3)."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy_NCHW: Tensor, noise_NCHW: Tensor, timesteps_N: Tensor, tokens_NL: Tensor) -> Tensor:
        """Mean squared error of the predicted noise."""
        words_NLD = self.text_encoder(tokens_NL).last_hidden_state
        return F.mse_loss(self.unet(noisy_NCHW, timesteps_N, words_NLD).sample, noise_NCHW)


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    phase: str
    step: int
    steps: int
    loss: float


class Pretraining:
    """A training that can stop after any step and go on from its state as if it had not.

    Each step's batch, noise and time steps derive from (seed, phase, step, rank) alone.

    Attributes:
        parts: The model in training.
    """

    def __init__(
        self,
        settings: Pretrain,
        timesteps: tuple[int, int],
        prompts: list[str],
        null_prompt: str,
        images_NCHW: Tensor,
        labels_N: Tensor,
        *,
        device: torch.device,
        rank: int = 0,
        wrap: Wrap = lambda module: module,
    ) -> None:
        """Sets up a training from step 0.

        Args:
            settings: Sizes, steps, rates.
            timesteps: Range [first, second) on which `settings.focus` of the steps are spent.
            prompts: The class prompts, by label.
            null_prompt: The prompt without class.
            images_NCHW: This worker's training images, uint8, square.
            labels_N: Their classes.
            device: Where to train.
            rank: This worker's number.
            wrap: Prepares a module for training by several workers.
        """
        torch.manual_seed(settings.seed)
        self._settings, self._focus, self._device, self._rank = settings, timesteps, device, rank
        self._images, self._labels = images_NCHW, labels_N
        self.parts: Parts = build(settings, [null_prompt, *prompts])
        self._tokens_KL = _tokenize(self.parts, [*prompts, null_prompt]).to(device)
        self._reconstruction = wrap(Reconstruction(self.parts.vae).to(device))
        self._denoising = wrap(Denoising(self.parts.unet, self.parts.text_encoder).to(device))
        self._ema = [weight.detach().clone() for weight in self._denoising.parameters()]
        self._optimizers = {
            "vae": torch.optim.AdamW(self._reconstruction.parameters(), lr=settings.vae_lr, weight_decay=0.0),
            "unet": torch.optim.AdamW(self._denoising.parameters(), lr=settings.unet_lr, weight_decay=0.01),
        }
        self._steps = {"vae": settings.vae_steps, "unet": settings.unet_steps}
        self._done = {"vae": 0, "unet": 0}
        self._latents: tuple[Tensor, ...] | None = None

    @property
    def phase(self) -> str | None:
        """`vae`, then `unet`; None when the training is complete."""
        return next((phase for phase, steps in self._steps.items() if self._done[phase] < steps), None)

    @property
    def done(self) -> int:
        """Steps done of the present phase; 0 when the training is complete."""
        return self._done.get(self.phase or "", 0)

    def advance(self, steps: int) -> Progress:
        """Trains for up to so many steps of the present phase and says where it stands, with the mean loss."""
        phase = self.phase
        if phase is None:
            raise ValueError("the training is complete")
        step_loss = {"vae": self._vae_loss, "unet": self._unet_loss}[phase]
        module = {"vae": self._reconstruction, "unet": self._denoising}[phase].train()
        optimizer = self._optimizers[phase]
        steps = min(steps, self._steps[phase] - self._done[phase])
        total = torch.zeros((), device=self._device)
        for _ in range(steps):
            factor = _rate(self._done[phase], self._steps[phase])
            for group in optimizer.param_groups:
                group["lr"] = factor * {"vae": self._settings.vae_lr, "unet": self._settings.unet_lr}[phase]
            loss = step_loss(self._generator(phase))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
            self._done[phase] += 1
            if phase == "unet":
                self._follow()
        if phase == "vae" and self._done["vae"] == self._steps["vae"]:
            self._whiten()
        return Progress(phase, self._done[phase], self._steps[phase], float(total) / max(1, steps))

    def finish(self) -> Parts:
        """Returns the parts with the running mean of the weights, ready to be saved."""
        for weight, mean in zip(self._denoising.parameters(), self._ema, strict=True):
            weight.data.copy_(mean)
        return self.parts

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as tensors and plain values."""
        return {
            "done": dict(self._done),
            "scaling_factor": float(self.parts.vae.config.scaling_factor),
            "reconstruction": _bare(self._reconstruction).state_dict(),
            "denoising": _bare(self._denoising).state_dict(),
            "ema": self._ema,
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self._optimizers.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state."""
        self._done = dict(state["done"])
        self.parts.vae.register_to_config(scaling_factor=state["scaling_factor"])
        _bare(self._reconstruction).load_state_dict(state["reconstruction"])
        _bare(self._denoising).load_state_dict(state["denoising"])
        self._ema = [mean.to(self._device) for mean in state["ema"]]
        for phase, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][phase])
        self._latents = None

    def _generator(self, phase: str) -> torch.Generator:
        words = (self._settings.seed, ("vae", "unet").index(phase), self._done[phase], self._rank)
        seed = 0
        for word in words:
            seed = (seed * 1_000_003 + word) % 2**63
        return torch.Generator().manual_seed(seed)

    def _vae_loss(self, generator: torch.Generator) -> Tensor:
        count = self._settings.vae_batch
        chosen = torch.randint(len(self._images), (count,), generator=generator)
        images_NCHW = _floats(self._images[chosen]).to(self._device)
        if self._settings.flip and torch.rand((), generator=generator) < 0.5:
            images_NCHW = images_NCHW.flip(3)
        vae = self.parts.vae
        side = self._settings.size // 2 ** (len(self._settings.vae_channels) - 1)
        noise = torch.randn((count, vae.config.latent_channels, side, side), generator=generator).to(self._device)
        loss: Tensor = self._reconstruction(images_NCHW, noise)
        return loss

    def _unet_loss(self, generator: torch.Generator) -> Tensor:
        settings, count = self._settings, self._settings.unet_batch
        views = self._views()
        chosen = torch.randint(len(views[0]), (count,), generator=generator)
        mirrored = torch.randint(len(views), (count, 1, 1, 1), generator=generator).bool()
        latents_NCHW = torch.where(mirrored, views[-1][chosen], views[0][chosen])
        nothing = len(self._tokens_KL) - 1
        classless = torch.rand(count, generator=generator) < settings.null_fraction
        prompts = torch.where(classless, nothing, self._labels[chosen])
        focused = torch.rand(count, generator=generator) < settings.focus
        anywhere = torch.randint(1000, (count,), generator=generator)
        timesteps = torch.where(focused, torch.randint(*self._focus, (count,), generator=generator), anywhere)
        noise_NCHW = torch.randn(latents_NCHW.shape, generator=generator)
        noisy_NCHW = self.parts.scheduler.add_noise(latents_NCHW, noise_NCHW, timesteps)
        moved = [tensor.to(self._device) for tensor in (noisy_NCHW, noise_NCHW, timesteps)]
        loss: Tensor = self._denoising(*moved, self._tokens_KL[prompts.to(self._device)])
        return loss

    def _follow(self) -> None:
        decay = min(self._settings.ema, (1 + self._done["unet"]) / (10 + self._done["unet"]))
        with torch.no_grad():
            torch._foreach_lerp_(self._ema, list(self._denoising.parameters()), 1 - decay)

    @torch.no_grad()
    def _views(self) -> tuple[Tensor, ...]:
        """Latents of all images, and of their mirror images if those are trained on; computed once."""
        if self._latents is None:
            factor = self.parts.vae.config.scaling_factor
            images = [self._images, self._images.flip(3)] if self._settings.flip else [self._images]
            self._latents = tuple(self._encode(view) * factor for view in images)
        return self._latents

    def _encode(self, images_NCHW: Tensor) -> Tensor:
        vae = self.parts.vae.eval()
        batches = images_NCHW.split(128)
        return torch.cat([vae.encode(_floats(batch).to(self._device)).latent_dist.mean.cpu() for batch in batches])

    @torch.no_grad()
    def _whiten(self) -> None:
        """Folds a scale and shift a channel into the VAE's 1×1 convolutions: latents get mean 0 and variance 1.

        Noise then drowns no channel before the others, and the scaling factor is the standard deviation that is wanted.
        """
        vae = self.parts.vae
        sample_NCHW = self._encode(self._images[:2048])
        moments = torch.stack([sample_NCHW.mean((0, 2, 3)), sample_NCHW.var((0, 2, 3))]).to(self._device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean_C, std_C = moments[0], moments[1].sqrt()
        channels = len(mean_C)
        into, out = vae.quant_conv, vae.post_quant_conv
        into.weight[:channels] /= std_C[:, None, None, None]
        into.bias[:channels] = (into.bias[:channels] - mean_C) / std_C
        into.bias[channels:] -= 2 * std_C.log()  # the other half of the moments is the log variance
        out.bias += (out.weight[:, :, 0, 0] * mean_C).sum(1)
        out.weight *= std_C[None, :, None, None]
        vae.register_to_config(scaling_factor=self._settings.latent_std)


def _rate(step: int, steps: int) -> float:
    """Warm-up, then a cosine down to a small share of the peak learning rate."""
    warm = min(1.0, (step + 1) / min(_WARM_UP, max(1, steps // 10)))
    return warm * (_LEAST_LR + (1 - _LEAST_LR) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _floats(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.float() / 127.5 - 1


def _tokenize(parts: Parts, prompts: list[str]) -> Tensor:
    tokens: Tensor = parts.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return tokens


def _bare(module: nn.Module) -> nn.Module:
    """The module inside a DistributedDataParallel wrapper, or the module itself."""
    inner = getattr(module, "module", module)
    return inner if isinstance(inner, nn.Module) else module
