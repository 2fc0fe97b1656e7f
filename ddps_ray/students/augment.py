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
class Draws:
    """What is drawn for the N images of a batch, from the seed alone.

    Attributes:
        swaps_2N: Whether the columns, and the rows, of each mosaic change places; None where none is shuffled.
        boxes_N4: Box of each crop, as `random_boxes` gives it.
        flips_N: Which results are mirrored.
        changes: Of the colours; None where there are none.
    """

    swaps_2N: Tensor | None
    boxes_N4: Tensor
    flips_N: Tensor
    changes: colour.Changes | None


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
        """Draws for a batch, and applies that; arguments and result as there."""
        return self.apply(images_NCHW, self.draw(len(images_NCHW), images_NCHW.shape[-1], generator))

    def draw(self, count: int, side: int, generator: torch.Generator) -> Draws:
        """Draws for so many square images of so many pixels a side."""
        return Draws(
            swaps_2N=torch.rand(2, count, generator=generator) < 0.5 if self.shuffle else None,
            boxes_N4=random_boxes(count, side, self.crop_scale, generator),
            flips_N=torch.rand(count, generator=generator) < 0.5,
            changes=colour.draw(count, generator) if self.colour else None,
        )

    def apply(self, images_NCHW: Tensor, draws: Draws) -> Tensor:
        """Augments square images of shape N×3×S×S, of values 0..255, to normalised float32 of shape N×3×size×size."""
        if draws.swaps_2N is not None:
            images_NCHW = swap_halves(images_NCHW, draws.swaps_2N)
        if self.crop_scale == (1.0, 1.0) and images_NCHW.shape[-1] == self.size:  # whole images are not resampled
            flip_N111 = draws.flips_N.to(images_NCHW.device, non_blocking=True)[:, None, None, None]
            cropped_NCHW = torch.where(flip_N111, images_NCHW.flip(3), images_NCHW).float()
        else:
            cropped_NCHW = resized_crop(images_NCHW, draws.boxes_N4, draws.flips_N, self.size)
        if draws.changes is not None:
            cropped_NCHW = colour.jitter(cropped_NCHW, draws.changes)
        return normalise(cropped_NCHW).contiguous(memory_format=torch.channels_last)


def swap_halves(images_NCHW: Tensor, swaps_2N: Tensor) -> Tensor:
    """Shuffles the 2×2 mosaic of each image: its two columns as wholes, then its two rows, where they are to swap."""
    for dim, swap_N in zip((3, 2), swaps_2N.to(images_NCHW.device, non_blocking=True), strict=True):
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


@dataclass(frozen=True)
class Cut:
    """What CutMix pastes into the N images of a batch.

    Attributes:
        partners_N: For each the number of the image that its box comes from.
        box: left, top, right, bottom in pixels; the same for all.
        kept: Share of each image's area that is still its own.
    """

    partners_N: Tensor
    box: tuple[int, int, int, int]
    kept: float


def draw_cut(count: int, side: int, generator: torch.Generator) -> Cut:
    """Draws the box of CutMix, and a random partner for each image; λ ~ Beta(1, 1), the uniform distribution.

    Args:
        count: N.
        side: Side of the images in pixels.
        generator: CPU generator.
    """
    partners_N = torch.randperm(count, generator=generator)
    kept = torch.rand((), generator=generator).item()
    x, y = torch.randint(side, (2,), generator=generator).tolist()
    left, top, right, bottom = cutmix_box(side, kept, (x, y))
    return Cut(partners_N, (left, top, right, bottom), 1 - (bottom - top) * (right - left) / side**2)


def paste(images_NCHW: Tensor, cut: Cut) -> Tensor:
    """Pastes the box of its partner into each image, and returns the mixed images."""
    left, top, right, bottom = cut.box
    mixed_NCHW = images_NCHW.clone()
    mixed_NCHW[:, :, top:bottom, left:right] = images_NCHW[
        cut.partners_N.to(images_NCHW.device, non_blocking=True), :, top:bottom, left:right
    ]
    return mixed_NCHW
