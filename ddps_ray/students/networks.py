"""Architectures by name: ConvNets, the small ResNets of 64 px and less, torchvision's classifiers, and timm's."""

import math
import re
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from ddps_ray.config import Network, Student
from ddps_ray.errors import UserError

_CONVNET = re.compile(r"convnet([1-9]\d?)")
_SMALL = re.compile(r"(resnet(?:18|34|50|101|152))_small")
# Names of timm's for networks that torchvision has with the regularisation (dropout, stochastic depth) and the initial
# weights of the papers, which timm's have only if they are asked for.
_TIMM_NAMES = {
    "mobilenetv2_100": "mobilenet_v2",
    "swin_tiny_patch4_window7_224": "swin_t",
    "vit_base_patch16_224": "vit_b_16",
}
_OTHER_OUTPUTS = ("googlenet", "inception_v3")
"""Of torchvision's, those that give more than logits in training."""
_HEADS_BY_OUTPUTS = ("efficientnet", "mnasnet")
"""Of torchvision's, those whose head begins with weights that go by its number of outputs, as one by its root."""
_IMAGENET = 1000
"""Classes of ImageNet-1K."""


class ConvNet(nn.Module):
    """`depth` blocks of 3×3 convolution, BatchNorm, ReLU and 2×2 average pooling, then one linear layer."""

    def __init__(self, depth: int, width: int, classes: int, size: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for level in range(depth):
            blocks += [
                nn.Conv2d(width if level else 3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * (size >> depth) ** 2, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of shape N×classes."""
        logits_NK: Tensor = self.head(self.features(images_NCHW).flatten(1))
        return logits_NK


def build(network: Network, classes: int, size: int) -> nn.Module:
    """Makes a network with random weights, drawn from PyTorch's global generator.

    Args:
        network: Architecture and width.
        classes: Number of outputs.
        size: Side in pixels of its square input.

    Raises:
        UserError: The architecture is not known, or cannot take images of this size.
    """
    return _maker(network, size)(classes).to(memory_format=torch.channels_last)  # half the time a step on CPUs


def check(network: Network, classes: int, size: int) -> None:
    """Builds the network without memory for its weights, and has it look at one image.

    Raises:
        UserError: It cannot be built, or does not take such an image.
    """
    with torch.device("meta"):
        made = build(network, classes, size).eval()
        try:
            made(torch.empty(1, 3, size, size))
        except (RuntimeError, AssertionError) as error:
            raise _unfit(network.arch, size, error) from error


def known_to_torchvision(arch: str) -> bool:
    """Says whether torchvision has a classifier of this name."""
    return arch in torchvision.models.list_models(module=torchvision.models) and arch not in _OTHER_OUTPUTS


def known_to_timm(arch: str) -> bool:
    """Says whether timm has this architecture, and these weights of it if the name has a tag."""
    tag_known: bool = timm.is_model_pretrained(arch) if "." in arch else timm.is_model(arch)
    return tag_known


def from_timm(arch: str, classes: int, size: int, pretrained: bool = False) -> nn.Module:
    """Makes one of timm's networks, at this input size where the architecture has a fixed one.

    Raises:
        UserError: It cannot be built so.
    """
    config = timm.get_pretrained_cfg(arch)
    options: dict[str, Any] = {"img_size": size} if config is not None and config.fixed_input_size else {}
    try:
        network: nn.Module = timm.create_model(arch, pretrained=pretrained, num_classes=classes, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise _unfit(arch, size, error) from error
    return network


def from_torchvision(arch: str, classes: int, size: int) -> nn.Module:
    """Makes one of torchvision's networks, with random weights: those of a head for ImageNet's classes, as in RDED.

    Raises:
        UserError: It cannot be built so.
    """
    options: dict[str, Any] = {"image_size": size} if arch.startswith("vit_") else {}
    try:
        network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise _unfit(arch, size, error) from error
    if arch.startswith(_HEADS_BY_OUTPUTS):
        head = network.get_parameter("classifier.1.weight")
        head.data.mul_(math.sqrt(classes / _IMAGENET))
    return network


def name(network: Network) -> str:
    """What tables and file names call a network: its architecture, and whatever differs from the defaults."""
    wide = width(network) not in (None, Network.model_fields["width"].default)
    suffix = f"-w{network.width}" if wide else ""
    rate = f"-lr{network.lr:g}" if isinstance(network, Student) and network.lr is not None else ""
    return f"{network.arch}{suffix}{rate}"


def width(network: Network) -> int | None:
    """Channels of a ConvNet; None for other networks, which have their own."""
    return network.width if _CONVNET.fullmatch(network.arch) else None


def canonical(arch: str) -> str:
    """Torchvision's name of a network that timm calls otherwise; any other name as it is."""
    return _TIMM_NAMES.get(arch, arch)


def _maker(network: Network, size: int) -> Callable[[int], nn.Module]:
    """What makes a network for a number of classes."""
    arch = canonical(network.arch)
    if match := _CONVNET.fullmatch(arch):
        depth = int(match[1])
        if size % 2**depth:
            raise UserError(f"evaluate.size: {arch} halves its input {depth} times, which {size} px do not allow")
        return lambda classes: ConvNet(depth, network.width, classes, size)
    if match := _SMALL.fullmatch(arch):
        return lambda classes: _small(from_torchvision(match[1], classes, size))
    if known_to_torchvision(arch):
        return lambda classes: from_torchvision(arch, classes, size)
    if known_to_timm(arch):
        return lambda classes: from_timm(arch, classes, size)
    raise UserError(
        f"arch: there is no network {arch!r}: use convnet<d>, resnet<d>_small, or a name of torchvision's or timm's"
    )


def _small(network: nn.Module) -> nn.Module:
    """RDED's "modified" ResNet for images of at most 64 px: 3×3 stem of stride 1, no max-pooling."""
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _unfit(arch: str, size: int, error: Exception) -> UserError:
    return UserError(f"arch: {arch} cannot be built for {size} px: {' '.join(str(error).split())}")
