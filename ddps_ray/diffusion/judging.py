"""Whether a diffusion model can judge: does an image's own class predict its noise better than another class does?"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddps_ray.config import Score
from ddps_ray.diffusion.checkpoint import Checkpoint
from ddps_ray.diffusion.latents import encode
from ddps_ray.diffusion.micro_batch import MicroBatch
from ddps_ray.diffusion.noise import draw_pairs
from ddps_ray.diffusion.prompts import Prompts
from ddps_ray.diffusion.scorer import Item, by_shape


@dataclass(frozen=True)
class Contest:
    """Errors of the predicted noise of one image, mean squares over all values of the latent.

    Attributes:
        errors_K: Under the prompt of each class asked about, the image's own first; mean over the pairs.
        middle: Under its own, at the middle of the time steps, as a share of the error of an output of zeros.
        misread: The same where the U-Net's output is read as the other prediction type: noise for velocity, or
            velocity for noise.
        seconds: Time for one latent in the U-Net.
    """

    errors_K: tuple[float, ...]
    middle: float
    misread: float
    seconds: float

    @property
    def is_finite(self) -> bool:
        """Whether the model's outputs are numbers."""
        return all(map(math.isfinite, (*self.errors_K, self.middle, self.misread)))


class Contests:
    """Lets the prompts of several classes compete on images, each with the same noise and time steps.

    Attributes:
        velocity: Whether the checkpoint declares that its output is a velocity.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Score, seed: int, pairs: int) -> None:
        """Prepares it.

        Args:
            checkpoint: The judge.
            settings: Prompts, time steps, N.
            seed: The run's seed, so that the pairs are the first of those with which the image is scored.
            pairs: Pairs of noise and time step for each prompt.
        """
        self._checkpoint, self._settings, self._seed, self._pairs = checkpoint, settings, seed, pairs
        self.velocity = checkpoint.predicts_velocity
        self._prompts = Prompts(checkpoint, settings.prompt, settings.null_prompt)
        self._unet_calls = MicroBatch("U-Net", settings.micro_batch)
        self._vae_calls = MicroBatch("VAE", settings.micro_batch)

    @property
    def timestep(self) -> int:
        """The middle of the time steps."""
        return sum(self._settings.timesteps) // 2

    def hold(self, items: Sequence[Item], texts: Sequence[Sequence[str]]) -> list[Contest]:
        """Measures images of any mix of sizes.

        Args:
            items: The images.
            texts: For each the names of the classes that compete, its own first; as many for each.
        """
        found: dict[int, Contest] = {}
        for places in by_shape(items).values():
            group = self._alike([items[place] for place in places], [texts[place] for place in places])
            found.update(zip(places, group, strict=True))
        return [found[place] for place in range(len(items))]

    @torch.inference_mode()
    def _alike(self, items: list[Item], texts: list[Sequence[str]]) -> Iterator[Contest]:
        latents_NCHW = encode(self._checkpoint, np.stack([item.pixels_HWC for item in items]), self._vae_calls)
        rivals, pairs = len(texts[0]), self._pairs
        inputs = [self._inputs(item, names, latents_NCHW.shape[1:]) for item, names in zip(items, texts, strict=True)]
        noise_MCHW, steps_M, words_MLD = (torch.cat(parts) for parts in zip(*inputs, strict=True))
        owner_M = torch.arange(len(items)).repeat_interleave(rivals * pairs + 1)
        begun = time.perf_counter()
        errors_M4 = self._errors(latents_NCHW, owner_M, noise_MCHW, steps_M, words_MLD)
        seconds = (time.perf_counter() - begun) / len(owner_M)
        for errors_K4 in errors_M4.view(len(items), -1, 4):
            middle, misread = (errors_K4[-1, :2] / errors_K4[-1, 2:]).tolist()
            means_K = errors_K4[:-1, 0].view(rivals, pairs).mean(1)
            yield Contest(tuple(means_K.tolist()), middle, misread, seconds)

    def _inputs(self, item: Item, names: Sequence[str], shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, time steps and prompts of an image: all pairs for each class, then its own at the middle step."""
        settings = self._settings
        noise_NCHW, steps_N = draw_pairs(self._seed, item.image_id, self._pairs, settings.timesteps, shape)
        noise_MCHW = torch.cat([noise_NCHW.repeat(len(names), 1, 1, 1), noise_NCHW[:1]])
        steps_M = torch.cat([steps_N.repeat(len(names)), torch.tensor([self.timestep])])
        words_KLD = torch.stack([self._prompts.of(name) for name in names])
        return noise_MCHW, steps_M, torch.cat([words_KLD.repeat_interleave(self._pairs, 0), words_KLD[:1]])

    def _errors(
        self, latents_NCHW: Tensor, owner_M: Tensor, noise_MCHW: Tensor, steps_M: Tensor, words_MLD: Tensor
    ) -> Tensor:
        """Errors of each input, M×4: its output read as declared, and as the other type; then those of zeros."""
        checkpoint, device = self._checkpoint, self._checkpoint.device

        def some(chunk: slice) -> Tensor:
            noise_NCHW, steps_N = noise_MCHW[chunk].to(device), steps_M[chunk].to(device)
            noisy_NCHW = checkpoint.add_noise(latents_NCHW[owner_M[chunk].to(device)], noise_NCHW, steps_N)
            output_NCHW = checkpoint.unet(noisy_NCHW.to(checkpoint.unet.dtype), steps_N, words_MLD[chunk]).sample
            errors = [
                (checkpoint.noise_of(each, noisy_NCHW, steps_N, velocity) - noise_NCHW).square().mean((1, 2, 3))
                for each in (output_NCHW, torch.zeros_like(output_NCHW))
                for velocity in (checkpoint.predicts_velocity, not checkpoint.predicts_velocity)
            ]
            return torch.stack(errors, 1).cpu()

        return self._unet_calls.over(len(owner_M), some)
