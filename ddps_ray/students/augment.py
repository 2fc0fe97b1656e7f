"""RDED's augmentation on whole batches: mosaic shuffle, random-resized crop, flip, normalisation, CutMix.

Every draw comes from a CPU generator that the caller seeds, so a batch is the same on any device. What goes to a GPU is
a few numbers an image, without waiting for it (`non_blocking`); pixels are computed there.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddps_ray.students import colour

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_LOG_RATIO = math.log(4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """What happens to a batch before the networks see it.

    Attributes:
        size: Side in pixels of the result.
        crop_scale: Area of the random crop, least and most, as a fraction of the image.
        shuffle: Shuffle the 2×2 mosaic first.
        colour: Change brightness, contrast, saturation and lighting last.
    """

    size: int
    crop_scale: tuple[float, float]
    shuffle: bool = False
    colour: bool = False

    def __call__(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Augments square images of shape N×3×S×S, of values 0..255, to normalised float32 of shape N×3×size×size."""
        count, side = images_NCHW.shape[0], images_NCHW.shape[-1]
        if self.shuffle:
            images_NCHW = shuffle_mosaic(images_NCHW, generator)
        boxes_N4 = random_boxes(count, side, self.crop_scale, generator)
        flip_N = torch.rand(count, generator=generator) < 0.5
        if self.crop_scale == (1.0, 1.0) and side == self.size:  # whole images are not resampled
            flip_N111 = flip_N.to(images_NCHW.device, non_blocking=True)[:, None, None, None]
            cropped_NCHW = torch.where(flip_N111, images_NCHW.flip(3), images_NCHW).float()
        else:
            cropped_NCHW = resized_crop(images_NCHW, boxes_N4, flip_N, self.size)
        if self.colour:
            cropped_NCHW = colour.jitter(cropped_NCHW, generator)
        return normalise(cropped_NCHW).contiguous(memory_format=torch.channels_last)


def shuffle_mosaic(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffles the 2×2 mosaic of each image: its two columns as wholes, then its two rows."""
    swap_2N = torch.rand(2, len(images_NCHW), generator=generator) < 0.5
    for dim, swap_N in zip((3, 2), swap_2N.to(images_NCHW.device, non_blocking=True), strict=True):
        swapped_NCHW = images_NCHW.roll(-(images_NCHW.shape[dim] // 2), dim)
        images_NCHW = torch.where(swap_N[:, None, None, None], swapped_NCHW, images_NCHW)
    return images_NCHW


def random_boxes(count: int, side: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draws the boxes of a random-resized crop the way torchvision does, one for each image.

    Area is uniform in `scale`, log aspect ratio uniform in ±log 4/3; of ten tries the first that fits wins, and the
    whole image if none does.

    Args:
        count: N.
        side: Side of the square images in pixels.
        scale: Least and most area, as a fraction of the image.
        generator: CPU generator.

    Returns:
        left, top, width, height in pixels, int64, of shape N×4.
    """
    area_NT = side**2 * torch.empty(count, _TRIES).uniform_(*scale, generator=generator)
    ratio_NT = torch.empty(count, _TRIES).uniform_(-_LOG_RATIO, _LOG_RATIO, generator=generator).exp()
    widths_NT = (area_NT * ratio_NT).sqrt().round()
    heights_NT = (area_NT / ratio_NT).sqrt().round()
    fits_NT = (widths_NT >= 1) & (widths_NT <= side) & (heights_NT >= 1) & (heights_NT <= side)
    first_N1 = fits_NT.int().argmax(1, keepdim=True)
    sizes_N2 = torch.cat([widths_NT.gather(1, first_N1), heights_NT.gather(1, first_N1)], 1).long()
    sizes_N2[~fits_NT.any(1)] = side
    corners_N2 = (torch.rand(count, 2, generator=generator) * (side - sizes_N2 + 1)).long()
    return torch.cat([corners_N2, sizes_N2], 1)


def resized_crop(images_NCHW: Tensor, boxes_N4: Tensor, flip_N: Tensor, size: int) -> Tensor:
    """Cuts one box out of each image, resizes it bilinearly, and mirrors it where asked.

    Args:
        images_NCHW: Square images, uint8.
        boxes_N4: left, top, width, height in pixels.
        flip_N: Which results to mirror.
        size: Side of the result.

    Returns:
        float32 in [0, 255], of shape N×C×size×size; pixels outside a box have no influence on it.
    """
    side, device = images_NCHW.shape[-1], images_NCHW.device
    boxes_N4, flip_N = (each.to(device, non_blocking=True) for each in (boxes_N4, flip_N))
    starts_N2, lengths_N2 = boxes_N4[:, None, :2].float(), boxes_N4[:, None, 2:].float()
    steps_1L1 = (torch.arange(size, dtype=torch.float32, device=device)[None, :, None] + 0.5) / size
    pixels_NL2 = starts_N2 + (steps_1L1 * lengths_N2 - 0.5).clamp(min=0).minimum(lengths_N2 - 1)
    coordinates_NL2 = (2 * pixels_NL2 + 1) / side - 1  # grid_sample's, where -1 and 1 are the image's outer edges
    x_NL = torch.where(flip_N[:, None], coordinates_NL2[..., 0].flip(1), coordinates_NL2[..., 0])
    y_NL = coordinates_NL2[..., 1]
    grid_NLL2 = torch.stack([x_NL[:, None, :].expand(-1, size, -1), y_NL[:, :, None].expand(-1, -1, size)], -1)
    planes_NCHW = images_NCHW.to(torch.float32, memory_format=torch.contiguous_format)  # sampled faster on CPUs
    return F.grid_sample(planes_NCHW, grid_NLL2, padding_mode="border", align_corners=False)


def normalise(images_NCHW: Tensor) -> Tensor:
    """Brings values in [0, 255] to ImageNet's mean 0 and standard deviation 1 for each channel."""
    mean_std_2C11 = (255 * torch.tensor([MEAN, STD])).to(images_NCHW.device, non_blocking=True)[:, :, None, None]
    return (images_NCHW - mean_std_2C11[0]).div_(mean_std_2C11[1])


def cutmix_box(side: int, kept: float, centre: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of CutMix: side·√(1 − λ) around a centre, clipped to the image.

    Args:
        side: Side of the images in pixels.
        kept: λ, the share of an image that would stay if the box did not reach over its edge.
        centre: x and y in pixels.

    Returns:
        left, top, right, bottom in pixels; right and bottom exclusive.
    """
    half = int(side * math.sqrt(1 - kept)) // 2
    x, y = centre
    return max(x - half, 0), max(y - half, 0), min(x + half, side), min(y + half, side)


def cutmix(images_NCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Pastes one box of a random other image of the batch into each image; λ ~ Beta(1, 1), the uniform distribution.

    Args:
        images_NCHW: Square images.
        generator: CPU generator.

    Returns:
        The mixed images; for each the number of the image that the box comes from; and the share of each image's area
        that is still its own.
    """
    count, side = images_NCHW.shape[0], images_NCHW.shape[-1]
    partners_N = torch.randperm(count, generator=generator).to(images_NCHW.device, non_blocking=True)
    kept = torch.rand((), generator=generator).item()
    x, y = torch.randint(side, (2,), generator=generator).tolist()
    left, top, right, bottom = cutmix_box(side, kept, (x, y))
    mixed_NCHW = images_NCHW.clone()
    mixed_NCHW[:, :, top:bottom, left:right] = images_NCHW[partners_N, :, top:bottom, left:right]
    return mixed_NCHW, partners_N, 1 - (bottom - top) * (right - left) / side**2
