"""Changes of colour that Minimax trains students with: brightness, contrast, saturation in any order, then lighting.

The lighting is AlexNet's: noise along the principal components of ImageNet's colours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_STRENGTH = 0.4
_LIGHTING = 0.1
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Changes:
    """What is drawn for the N images of a batch.

    Attributes:
        orders_N3: In which order the three changes come.
        weights_N3: How far each goes.
        alphas_N3: Noise along each principal component.
    """

    orders_N3: Tensor
    weights_N3: Tensor
    alphas_N3: Tensor


def draw(count: int, generator: torch.Generator) -> Changes:
    """Draws the changes of so many images from a CPU generator."""
    return Changes(
        orders_N3=torch.rand(count, 3, generator=generator).argsort(1),
        weights_N3=torch.empty(count, 3).uniform_(-_STRENGTH, _STRENGTH, generator=generator),
        alphas_N3=_LIGHTING * torch.randn(count, 3, generator=generator),
    )


def jitter(images_NCHW: Tensor, changes: Changes) -> Tensor:
    """Changes the colours of each image; values may leave 0..255, as there.

    Args:
        images_NCHW: RGB, values 0..255, float.
        changes: From `draw`.
    """
    device = images_NCHW.device
    drawn = (changes.orders_N3, changes.weights_N3, changes.alphas_N3)
    orders_N3, weights_N3, alphas_N3 = (each.to(device, non_blocking=True) for each in drawn)
    for turn in range(3):
        kind_N = orders_N3[:, turn]
        weight_N111 = weights_N3.gather(1, kind_N[:, None])[:, :, None, None]
        images_NCHW = images_NCHW.lerp(_towards(images_NCHW, kind_N), weight_N111)
    axes_CK = (torch.tensor(_EIGENVECTORS) * torch.tensor(_EIGENVALUES)).to(device, non_blocking=True)
    return images_NCHW + 255 * (alphas_N3 @ axes_CK.T)[:, :, None, None]


def _towards(images_NCHW: Tensor, kind_N: Tensor) -> Tensor:
    """What each image is mixed with: black (0), its mean grey (1), or its grey version (2)."""
    luma_C11 = torch.tensor(_LUMA).to(images_NCHW.device, non_blocking=True)[:, None, None]
    grey_N1HW = (images_NCHW * luma_C11).sum(1, keepdim=True)
    kind_N111 = kind_N[:, None, None, None]
    mean_N111 = grey_N1HW.mean((2, 3), keepdim=True)
    plain_N1HW = torch.where(kind_N111 == 0, torch.zeros_like(mean_N111), mean_N111)
    return torch.where(kind_N111 == 2, grey_N1HW, plain_N1HW).expand_as(images_NCHW)
