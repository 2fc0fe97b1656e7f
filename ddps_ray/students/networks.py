"""Student and teacher architectures by name, and the learning rate that RDED's protocol gives each."""

import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ddps_ray.config import Student
from ddps_ray.errors import UserError

_CONVNET = re.compile(r"convnet([1-9]\d?)")
_LEARNING_RATES = {"efficientnet_b0": 2e-3, "mobilenetv2": 2.5e-3, "vit": 1e-4, "deit": 1e-4, "swin": 1e-4}
_OTHER_LEARNING_RATE = 1e-3  # ResNets and ConvNets


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


def build(student: Student, classes: int, size: int) -> nn.Module:
    """Makes a network with random weights, drawn from PyTorch's global generator.

    Args:
        student: Architecture and width.
        classes: Number of outputs.
        size: Side in pixels of its square input.

    Raises:
        UserError: The architecture is not known, or cannot take images of this size.
    """
    return _random(student, classes, size).to(memory_format=torch.channels_last)  # half the time a step on CPUs


def check(student: Student, classes: int, size: int) -> None:
    """Builds the network without memory for its weights.

    Raises:
        UserError: It cannot be built.
    """
    with torch.device("meta"):
        build(student, classes, size)


def from_timm(arch: str, classes: int, size: int, pretrained: bool = False) -> nn.Module:
    """Makes one of timm's networks, at this input size where the architecture has a fixed one.

    Raises:
        UserError: timm does not know the name, or has no such weights.
    """
    if not known_to_timm(arch):
        raise UserError(f"arch: there is no network {arch!r}: use convnet<d>, resnet18_small or a timm name")
    config = timm.get_pretrained_cfg(arch)
    options: dict[str, Any] = {"img_size": size} if config is not None and config.fixed_input_size else {}
    if arch.startswith("resnet"):
        options["zero_init_last"] = False  # as torchvision's ResNets, which RDED trains, begin
    try:
        network: nn.Module = timm.create_model(arch, pretrained=pretrained, num_classes=classes, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"arch: {arch} cannot be built for {size} px: {' '.join(str(error).split())}") from error
    return network.to(memory_format=torch.channels_last)


def known_to_timm(arch: str) -> bool:
    """Says whether timm has this architecture, and these weights of it if the name has a tag."""
    tag_known: bool = timm.is_model_pretrained(arch) if "." in arch else timm.is_model(arch)
    return tag_known


def learning_rate(student: Student) -> float:
    """The student's learning rate: its own, or by default RDED's for the architecture."""
    if student.lr is not None:
        return student.lr
    found = [rate for prefix, rate in _LEARNING_RATES.items() if student.arch.startswith(prefix)]
    return found[0] if found else _OTHER_LEARNING_RATE


def name(student: Student) -> str:
    """What tables and file names call a student: its architecture, and whatever differs from the defaults."""
    wide = _CONVNET.fullmatch(student.arch) and student.width != Student.model_fields["width"].default
    width = f"-w{student.width}" if wide else ""
    rate = "" if student.lr is None else f"-lr{student.lr:g}"
    return f"{student.arch}{width}{rate}"


def _random(student: Student, classes: int, size: int) -> nn.Module:
    if match := _CONVNET.fullmatch(student.arch):
        depth = int(match[1])
        if size % 2**depth:
            raise UserError(
                f"evaluate.size: {student.arch} halves its input {depth} times, which {size} px do not allow"
            )
        return ConvNet(depth, student.width, classes, size)
    if student.arch == "resnet18_small":
        return _resnet18_small(classes)
    return from_timm(student.arch, classes, size)


def _resnet18_small(classes: int) -> nn.Module:
    """RDED's ResNet-18 for images of at most 64 px: 3×3 stem of stride 1, no max-pooling."""
    network: nn.Module = timm.create_model("resnet18", num_classes=classes, zero_init_last=False)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
