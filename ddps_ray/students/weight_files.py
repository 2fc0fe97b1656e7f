"""Files of weights: safetensors and state dicts of PyTorch, read without pickle and fitted to a network."""

import hashlib
import io
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import safetensors.torch
import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from ddps_ray import storage, uris
from ddps_ray.config import Network
from ddps_ray.errors import UserError, first_line
from ddps_ray.students import networks

State = dict[str, Tensor]
"""Tensors by the name of the weight."""
Maker = Callable[[], nn.Module]
"""Makes a network whose weights are to be replaced."""

IMAGENET = "imagenet-1k"
"""Stands for the packaged order of ImageNet-1K's classes."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which training scripts keep the state dict, beside epoch and optimiser."""
_PREFIXES = ("module.", "_orig_mod.")
"""What wrappers for distributed and for compiled networks put before every name."""
_TORCH_BEGINS = (b"PK\x03\x04", b"\x80")
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")
"""How torchvision's published DenseNets call a weight that its network calls without the point."""
_RDED_CONVNET = re.compile(r"^layers\.(conv|norm)\.(\d+)\.(.+)$")
_UNTRAINED = "num_batches_tracked"
"""Counters that old files lack, and that a network in eval mode does not use."""


@dataclass(frozen=True)
class Wanted:
    """What a file of weights must be of.

    Attributes:
        place: The file, or the name of published weights, for messages.
        arch: The network.
        classes: Number of outputs.
        order: What says so.
    """

    place: str
    arch: str
    classes: int
    order: str


def folder_of(uri: str) -> str:
    """The folder that a file is in."""
    if not uris.is_uri(uri):
        return uri.rpartition("/")[0]
    found = uris.parse(uri)
    return str(uris.Uri(found.store, found.path.rpartition("/")[0], found.options))


def class_order(place: str) -> list[str]:
    """Reads class ids or WordNet ids, one a line, in the order of a classifier's outputs.

    Args:
        place: Path or URI of the file; `imagenet-1k` is ImageNet's order.

    Raises:
        UserError: It cannot be read, is empty, or has one twice.
    """
    if place == IMAGENET:
        return list(ImageNetInfo().label_names())
    try:
        lines = storage.read_bytes(place).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"teacher.class_order: {place} cannot be read: {first_line(error)}") from error
    named = [line.strip() for line in lines if line.strip()]
    if not named:
        raise UserError(f"teacher.class_order: {place} names no class")
    if len(set(named)) < len(named):
        twice = next(each for each in named if named.count(each) > 1)
        raise UserError(f"teacher.class_order: {place} has {twice!r} twice")
    return named


def digest(uri: str) -> str:
    """Stands for what a file holds now, wherever it lies; it is read once a process, as long as it is the same.

    Raises:
        OSError: It cannot be read.
    """
    filesystem, path = storage.open_uri(uri)
    about = filesystem.get_file_info(path)
    return _digest(uri, about.size, about.mtime_ns)


@lru_cache
def _digest(uri: str, size: int | None, time: int | None) -> str:
    return hashlib.sha256(storage.read_bytes(uri)).hexdigest()[:12]


def read(uri: str) -> State:
    """Reads the weights of a file; a state dict may lie under a key of a checkpoint.

    Raises:
        UserError: It cannot be read, is neither kind of file, holds pickled objects, or no weights.
    """
    try:
        raw = storage.read_bytes(uri)
    except OSError as error:
        raise UserError(f"teacher.weights: {uri} cannot be read: {first_line(error)}") from error
    try:
        if raw[8:9] == b"{":
            return _unprefixed(safetensors.torch.load(raw))
        if raw.startswith(_TORCH_BEGINS):
            return _unprefixed(_unwrapped(_torch(raw)))
    except UserError as error:
        raise UserError(f"teacher.weights: {uri}: {error}") from error
    except Exception as error:  # two libraries that know many ways in which a file can be damaged
        raise UserError(f"teacher.weights: {uri} is damaged: {first_line(error)}") from error
    raise UserError(f"teacher.weights: {uri} is neither a safetensors file nor a state dict that PyTorch has saved")


def makers(network: Network, classes: int, size: int) -> list[Maker]:
    """What makes the networks of this name: ours or torchvision's, and timm's where it has one of the same name."""
    found: list[Maker] = [partial(networks.build, network, classes, size)]
    if networks.known_to_torchvision(networks.canonical(network.arch)) and networks.known_to_timm(network.arch):
        found.append(partial(networks.from_timm, network.arch, classes, size))
    return found


def fitted(made: Sequence[Maker], state: State, wanted: Wanted, size: int) -> nn.Module:
    """Makes the network that the weights fit, and puts them in.

    Args:
        made: What makes a network; of several that one is made whose names of weights are most like the file's.
        state: The weights.
        wanted: What they must be of.
        size: Side in pixels of its input, to which the position embeddings of torchvision's ViTs are brought.

    Raises:
        UserError: A weight is missing, unexpected, or of another shape.
    """
    state = _resized(_renamed(state, wanted.arch), size)
    shapes = []
    for maker in made:
        with torch.device("meta"):
            shapes.append({key: value.shape for key, value in maker().state_dict().items()})
    misfits = [list(_misfits(each, state, wanted)) for each in shapes]
    best = min(range(len(made)), key=lambda number: len(misfits[number]))
    if misfits[best]:
        more = f" (the first of {len(misfits[best])} such things)" if len(misfits[best]) > 1 else ""
        raise UserError(f"teacher.weights: {wanted.place}: {misfits[best][0]}{more}")
    network = made[best]()
    network.load_state_dict(state, strict=False)
    return network


def _torch(raw: bytes) -> Any:
    try:
        with torch.serialization.safe_globals([Namespace]):  # torchvision's training script saves its arguments
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error).lower() or "unsupported global" in str(error).lower():
            raise UserError(
                "holds pickled objects, which are not loaded: save the state dict alone, "
                "torch.save(model.state_dict(), …)"
            ) from error
        raise


def _unwrapped(loaded: Any) -> State:
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        keys = ", ".join(map(str, list(loaded)[:3])) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise UserError(f"holds no state dict, nor one under {', '.join(_WRAPPERS[:-1])} or {_WRAPPERS[-1]}: {keys} …")
    return dict(loaded)


def _unprefixed(state: State) -> State:
    if not state:
        raise UserError("holds no weights")
    for prefix in (*_PREFIXES, *_PREFIXES):  # either may be the outer one
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _renamed(state: State, arch: str) -> State:
    """Weights under the names of our networks: of torchvision's old DenseNets, and of RDED's ConvNets."""
    if arch.startswith("convnet"):
        return {_our_convnets(key): value for key, value in state.items()}
    return {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def _our_convnets(key: str) -> str:
    if found := _RDED_CONVNET.match(key):
        return f"features.{4 * int(found[2]) + (found[1] == 'norm')}.{found[3]}"
    return re.sub(r"^classifier\.", "head.", key)


def _resized(state: State, size: int) -> State:
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None or size % patches.shape[-1]:
        return state
    return dict(interpolate_embeddings(size, patches.shape[-1], dict(state)))


def _misfits(expected: Mapping[str, torch.Size], state: State, wanted: Wanted) -> Iterator[str]:
    for key in expected:
        if key not in state and not key.endswith(_UNTRAINED):
            yield f"has no {key!r}, which {wanted.arch} needs"
    for key in state:
        if key not in expected:
            yield f"has {key!r}, which {wanted.arch} has not"
    for key, shape in expected.items():
        given = state[key].shape if key in state else shape
        if given[:1] != shape[:1] and given[1:] == shape[1:] and shape[:1] == (wanted.classes,):
            yield f"has {given[0]} outputs, and {wanted.order} names {wanted.classes} classes"
        elif given != shape:
            yield f"{key!r} is of shape {list(given)}, where {wanted.arch} has {list(shape)}"
