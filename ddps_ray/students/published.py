"""Classifiers with published ImageNet-1K weights, torchvision's and timm's: what they expect, how good they are."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import timm
import torchvision
from timm.data import ImageNetInfo
from torch import nn

from ddps_ray.errors import UserError, first_line
from ddps_ray.students import networks, weight_files

CLASS_ORDER: tuple[str, ...] = tuple(ImageNetInfo().label_names())
"""ImageNet-1K's WordNet ids in the order of the outputs."""

SIZE = 224
"""Side in pixels of the images that published accuracies are of."""

Colour = tuple[float, float, float]
"""A value for red, green and blue."""

_TORCHVISIONS = {"tv_in1k": "IMAGENET1K_V1", "tv2_in1k": "IMAGENET1K_V2"}
"""Torchvision's names of the weights that timm has from it, by timm's."""
_OUR_TRANSFORM = ([SIZE], [256], "bilinear")
"""Crop, shorter edge and interpolation with which students, too, are tested at this size."""


@dataclass(frozen=True)
class Published:
    """A classifier with published weights.

    Attributes:
        name: Architecture, and after a point the name of the weights.
        mean: Of the colours of its input.
        std: Their standard deviation.
        accuracy: Top-1 on ImageNet-1K's validation split, 0..1, as published for images that are prepared as ours are;
            None where there is no such figure.
        fetch: Makes it for a side in pixels of its input, in ImageNet's order of classes; downloads what is missing.
    """

    name: str
    mean: Colour
    std: Colour
    accuracy: float | None
    fetch: Callable[[int], nn.Module]


@lru_cache
def find(arch: str) -> Published:
    """Finds published weights: those that torchvision has trained, which RDED uses, unless the name says otherwise.

    Args:
        arch: Name of timm's or torchvision's; with the weights' own name after a point, those weights.

    Raises:
        UserError: There are none, or not of ImageNet-1K's classes.
    """
    base, point, tag = arch.partition(".")
    found = (
        _of_timm(arch if point else f"{base}.tv_in1k")
        or _of_torchvision(base, tag if point else "IMAGENET1K_V1")
        or (None if point else _of_timm(base))
    )
    if found is None:
        known = _torchvision_tags(base)
        hint = f"; torchvision's are {', '.join(f'{base}.{each}' for each in known)}" if known else ""
        raise UserError(
            f"teacher.model.arch: there are no weights of {arch!r}, neither timm's nor torchvision's{hint}: "
            "name others, or train it (teacher.weights: trained)"
        )
    return found


def load(arch: str, size: int) -> nn.Module:
    """Makes the classifier, on the CPU; downloads its weights if they are not on this machine.

    Args:
        arch: As in `find`.
        size: Side in pixels of its input.

    Raises:
        UserError: There are no such weights, they cannot be had, or it cannot be built for this size.
    """
    found = find(arch)
    try:
        return found.fetch(size)
    except UserError:
        raise
    except Exception as error:  # a cache, two hubs and a network fail in many ways
        reason = first_line(error)
        raise UserError(f"teacher.model.arch: cannot fetch the weights of {found.name}: {reason}") from error


def _of_timm(name: str) -> Published | None:
    if not timm.is_model_pretrained(name):
        return None
    config = timm.get_pretrained_cfg(name)
    tagged = f"{config.architecture}.{config.tag}" if config.tag else name
    if config.num_classes != len(CLASS_ORDER):
        raise UserError(
            f"teacher.model.arch: {tagged} has {config.num_classes} outputs, not ImageNet-1K's 1000 classes"
        )
    same = _TORCHVISIONS.get(config.tag)
    accuracy = _accuracy(config.architecture, same) if same in _torchvision_tags(config.architecture) else None
    make = partial(networks.from_timm, tagged, len(CLASS_ORDER), pretrained=True)
    return Published(tagged, tuple(config.mean), tuple(config.std), accuracy, make)


def _of_torchvision(arch: str, tag: str) -> Published | None:
    if tag not in _torchvision_tags(arch):
        return None
    prepared = _weights(arch, tag).transforms()
    make = partial(_torchvisions_network, arch, tag)
    return Published(f"{arch}.{tag}", tuple(prepared.mean), tuple(prepared.std), _accuracy(arch, tag), make)


def _torchvisions_network(arch: str, tag: str, size: int) -> nn.Module:
    weights = _weights(arch, tag)
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a download there
        state = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    makers = [partial(networks.from_torchvision, arch, len(CLASS_ORDER), size)]
    wanted = weight_files.Wanted(f"{arch}.{tag}", arch, len(CLASS_ORDER), "ImageNet-1K")
    return weight_files.fitted(makers, state, wanted, size)


def _torchvision_tags(arch: str) -> list[str]:
    """Names of torchvision's weights of an architecture that classify."""
    if not networks.known_to_torchvision(arch):
        return []
    all_weights = torchvision.models.get_model_weights(arch).__members__
    return [tag for tag, weights in all_weights.items() if tag != "DEFAULT" and weights.meta["categories"]]


def _accuracy(arch: str, tag: str) -> float | None:
    weights = _weights(arch, tag)
    prepared = weights.transforms()
    if (prepared.crop_size, prepared.resize_size, prepared.interpolation.value) != _OUR_TRANSFORM:
        return None
    return float(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]) / 100


def _weights(arch: str, tag: str) -> Any:
    return torchvision.models.get_model_weights(arch)[tag]
