"""Scores images: from pixels to typicality map, patch and feature. One object a process; it knows no Ray."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddps_ray.config import Score
from ddps_ray.diffusion import dift
from ddps_ray.diffusion.checkpoint import Checkpoint
from ddps_ray.diffusion.latents import encode
from ddps_ray.diffusion.micro_batch import MicroBatch
from ddps_ray.diffusion.noise import draw_noise, draw_pairs
from ddps_ray.diffusion.prompts import Prompts
from ddps_ray.diffusion.suitability import check
from ddps_ray.diffusion.typicality import Patch, most_typical_patch, typicality_terms


@dataclass(frozen=True)
class Item:
    """An image to score.

    Attributes:
        image_id: Identity from which its noise derives.
        class_text: Name of its class.
        pixels_HWC: The scaled image, uint8 RGB; its sides are multiples of the VAE's scale factor.
    """

    image_id: str
    class_text: str
    pixels_HWC: np.ndarray


@dataclass(frozen=True)
class Scored:
    """What was measured on an image.

    Attributes:
        patch: The most typical window, in latent positions, and its T.
        image_typicality: T of the whole image.
        terms_NHW: The N maps, float32, whose mean is the typicality map.
        timesteps_N: Their time steps.
        dift_D: Spatial mean of the patch's diffusion feature, float32.
    """

    patch: Patch
    image_typicality: float
    terms_NHW: np.ndarray
    timesteps_N: np.ndarray
    dift_D: np.ndarray

    @property
    def map_HW(self) -> np.ndarray:  # noqa: N802 - shape suffix
        """The typicality map, float32."""
        return np.asarray(self.terms_NHW.mean(axis=0))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the patch's T, from the N terms; None of a single one."""
        patch = self.patch
        inside = self.terms_NHW[:, patch.row : patch.row + patch.height, patch.column : patch.column + patch.width]
        means_N = inside.mean(axis=(1, 2), dtype=np.float64)
        return float(means_N.std(ddof=1) / np.sqrt(len(means_N))) if len(means_N) > 1 else None


class Scorer:
    """Stage I of the paper on a loaded checkpoint.

    Attributes:
        factor: Pixels of the image's side to one latent position.
        feature_size: Channels of the diffusion feature.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Score, seed: int) -> None:
        """Prepares a scorer.

        Raises:
            UserError: The settings do not suit the model: patch or size not a multiple of the VAE's factor, or no such
                up-block.
        """
        check(checkpoint.geometry, settings)
        self._checkpoint, self._settings, self._seed = checkpoint, settings, seed
        self._prompts = Prompts(checkpoint, settings.prompt, settings.null_prompt)
        self._unet_calls = MicroBatch("U-Net", settings.micro_batch)
        self._vae_calls = MicroBatch("VAE", settings.micro_batch)
        self.factor = checkpoint.geometry.factor
        self.feature_size = checkpoint.geometry.feature_sizes[settings.dift_block]

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """Scores images of any mix of sizes; a result does not depend on what else is in the batch.

        Where the GPU's memory does not suffice for `micro_batch`, this and all later calls go on with less.

        Returns:
            One result an item, in the same order.

        Raises:
            UserError: It does not even suffice for one pair of latents, or one image.
        """
        results: dict[int, Scored] = {}
        for places in by_shape(items).values():
            group = [items[place] for place in places]
            results.update(zip(places, self._score_alike(group), strict=True))
        return [results[place] for place in range(len(items))]

    def _score_alike(self, items: list[Item]) -> list[Scored]:
        latents_NCHW = self._encode([item.pixels_HWC for item in items])
        shape = latents_NCHW.shape[1:]
        drawn = [
            draw_pairs(self._seed, i.image_id, self._settings.pairs, self._settings.timesteps, shape) for i in items
        ]
        noise_NCHW = torch.cat([noise for noise, _ in drawn])
        timesteps_N = torch.cat([steps for _, steps in drawn])
        terms_NHW = self._terms(items, latents_NCHW, noise_NCHW, timesteps_N)
        terms = terms_NHW.split(self._settings.pairs)
        patches = [self._patch(group.mean(0)) for group in terms]
        features = self._features(items, latents_NCHW, patches)
        return [
            Scored(patch, float(group.mean()), group.numpy(), steps.numpy(), feature.numpy())
            for patch, group, (_, steps), feature in zip(patches, terms, drawn, features, strict=True)
        ]

    def _terms(self, items: list[Item], latents_NCHW: Tensor, noise_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
        """All terms of a group; the null prompt and the class's are two inputs of the U-Net."""
        device = self._checkpoint.device
        owner_N = torch.arange(len(items)).repeat_interleave(self._settings.pairs).to(device)
        classes_NLD = torch.stack([self._prompts.of(item.class_text) for item in items])

        def some(chunk: slice) -> Tensor:
            owner = owner_N[chunk]
            null_NLD = self._prompts.null_LD.expand(len(owner), -1, -1)
            noise, steps = noise_NCHW[chunk].to(device), timesteps_N[chunk].to(device)
            latents, classes = latents_NCHW[owner], classes_NLD[owner]
            return typicality_terms(self._checkpoint, latents, noise, steps, null_NLD, classes).cpu()

        return self._unet_calls.over(len(owner_N), some, inputs=2)

    def _patch(self, map_HW: Tensor) -> Patch:
        if self._settings.patch == "full":
            height, width = map_HW.shape
            return Patch(0, 0, height, width, float(map_HW.mean()))
        side = self._settings.patch // self.factor
        return most_typical_patch(map_HW, side, side)

    def _features(self, items: list[Item], latents_NCHW: Tensor, patches: list[Patch]) -> Tensor:
        """Mean feature of each patch; N×D."""
        alone = self._settings.dift_input == "patch"
        if alone:
            latents_NCHW = self._encode([self._cut(*pair) for pair in zip(items, patches, strict=True)])

        def some(chunk: slice) -> Tensor:
            maps_NDhw = self._map_features(items[chunk], latents_NCHW[chunk])
            means_ND = maps_NDhw.mean((2, 3)) if alone else _means(maps_NDhw, latents_NCHW.shape[2], patches[chunk])
            return means_ND.cpu()

        return self._unet_calls.over(len(items), some)

    def _encode(self, images: list[np.ndarray]) -> Tensor:
        return encode(self._checkpoint, np.stack(images), self._vae_calls)

    def _cut(self, item: Item, patch: Patch) -> np.ndarray:
        """Pixels of a patch, H×W×C."""
        rows = slice(patch.row * self.factor, (patch.row + patch.height) * self.factor)
        return item.pixels_HWC[rows, patch.column * self.factor : (patch.column + patch.width) * self.factor]

    def _map_features(self, items: list[Item], latents_NCHW: Tensor) -> Tensor:
        shape = latents_NCHW.shape[1:]
        noise_NCHW = torch.stack([draw_noise(self._seed, item.image_id, shape) for item in items])
        classes_NLD = torch.stack([self._prompts.of(item.class_text) for item in items])
        settings = self._settings
        device = self._checkpoint.device
        block, timestep = settings.dift_block, settings.dift_timestep
        return dift.features(self._checkpoint, block, timestep, latents_NCHW, noise_NCHW.to(device), classes_NLD)


def _means(maps_NDhw: Tensor, latent_rows: int, patches: list[Patch]) -> Tensor:
    """Mean of each image's feature map over its patch; N×D."""
    step = latent_rows / maps_NDhw.shape[2]
    means = []
    for map_Dhw, patch in zip(maps_NDhw, patches, strict=True):
        rows, columns = (
            slice(int(first / step), max(int(first / step) + 1, round((first + length) / step)))
            for first, length in ((patch.row, patch.height), (patch.column, patch.width))
        )
        means.append(map_Dhw[:, rows, columns].mean((1, 2)))
    return torch.stack(means)


def by_shape(items: Sequence[Item]) -> dict[tuple[int, ...], list[int]]:
    """Places of the images of each shape, which can be in one call."""
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        groups[item.pixels_HWC.shape].append(place)
    return groups
