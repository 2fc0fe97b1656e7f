"""GPU memory that the training of a student takes, found out without a GPU: its tensors have shapes and no values."""

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddps_ray.config import Network
from ddps_ray.errors import UserError
from ddps_ray.students import networks
from ddps_ray.students.optimising import LEAST
from ddps_ray.students.protocols import Protocol

RESERVE = 1 << 30
"""Bytes that CUDA's context, cuDNN's workspaces and gaps between tensors are taken to need."""

_OPTIMISER_STATES = {"adamw": 2, "sgd": 1}
"""Numbers that an optimiser keeps for each weight."""
_FLOAT, _BATCH_COPIES = 4, 2


@dataclass(frozen=True)
class Footprint:
    """What a network's forward pass in training leaves in memory, in bytes.

    Attributes:
        tensors: Weights, and buffers such as BatchNorm's running means.
        trainable: The weights alone.
        saved: What is kept for the backward pass, weights not counted.
        largest: The largest tensor of these, whose gradient the backward pass needs besides.
    """

    tensors: int
    trainable: int
    saved: int
    largest: int


@lru_cache(maxsize=256)
def footprint(network: Network, classes: int, size: int, batch: int, dtype: str) -> Footprint:
    """Runs a network's forward pass in training on tensors without values.

    Attention is the fused kernel's, which GPUs run too; LayerNorm and softmax are float32, as CUDA's autocast has them.

    Args:
        network: The network.
        classes: Number of outputs.
        size: Side in pixels of its input.
        batch: Images in it.
        dtype: `float32`, or `bfloat16` for autocast.

    Raises:
        UserError: It cannot be built so.
    """
    with _Shapes(network, classes, size, batch, dtype) as shapes:
        weights = [tensor for tensor in shapes.tensors.values() if tensor.requires_grad]
        own = {_storage(tensor) for tensor in shapes.tensors.values()}
        saved: dict[int, tuple[torch.UntypedStorage, int]] = {}  # holding them, lest an address is used again

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if _storage(tensor) not in own:
                saved[_storage(tensor)] = (storage, storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            shapes.forward(training=True)
        sizes = [size for _, size in saved.values()]
        return Footprint(
            tensors=sum(tensor.nbytes for tensor in shapes.tensors.values()),
            trainable=sum(weight.nbytes for weight in weights),
            saved=sum(sizes),
            largest=max(sizes),
        )


def saved_bytes(network: Network, classes: int, size: int, batch: int, dtype: str) -> int:
    """Bytes that a forward pass saves for the backward pass, weights not counted; arguments as of `footprint`."""
    return footprint(network, classes, size, batch, dtype).saved


@lru_cache(maxsize=256)
def inference_bytes(network: Network, classes: int, size: int, batch: int, dtype: str) -> int:
    """Most bytes of activations that a forward pass without gradients has at a time; arguments as of `footprint`."""
    live = _Live()
    with _Shapes(network, classes, size, batch, dtype) as shapes, torch.no_grad(), live:
        shapes.forward(training=False)
    return live.most


@lru_cache(maxsize=256)
def operations(network: Network, classes: int, size: int) -> int:
    """Operations that a forward pass in training has a GPU do one after the other, however many images it is for.

    Those of autocast, which casts weights, are not counted; arguments and errors as of `footprint`.
    """
    counter = _Counter()
    with _Shapes(network, classes, size, LEAST, "float32") as shapes, torch.no_grad(), counter:
        shapes.forward(training=True)
    return counter.count


def needed(
    network: Network,
    teacher: Network | None,
    protocol: Protocol,
    size: int,
    classes: int,
    dtype: str,
    workers: int,
    parts: int = 1,
) -> int:
    """Bytes that one worker's GPU needs for a step of training.

    Weights, gradients, the optimiser's state and the running mean; what the student saves for its backward pass, and
    the gradient of the largest part of that; the teacher with its activations; the images; and `RESERVE`. A set that is
    held on the GPU is not in it: it goes there if there is room left.

    Args:
        network: The student.
        teacher: The teacher; None if the protocol has none.
        protocol: Batch, optimiser and running mean.
        size: Side in pixels of what both see.
        classes: Outputs of the student.
        dtype: `float32` or `bfloat16`.
        workers: Workers that share a batch.
        parts: Into how many parts each worker's share of a batch is cut.

    Raises:
        UserError: A network cannot be built so.
    """
    images = math.ceil(_share(protocol, workers) / parts)
    student = footprint(network, classes, size, images, dtype)
    copies = 1 + _OPTIMISER_STATES[protocol.optimiser] + int(workers > 1)  # gradients, and DDP's buckets of them
    fixed = student.tensors + copies * student.trainable + (student.tensors if protocol.ema else 0)
    passing = student.saved + student.largest + images * 3 * size**2 * (_BATCH_COPIES * _FLOAT + 1)
    if teacher is not None:
        fixed += footprint(teacher, classes, size, LEAST, dtype).tensors
        passing += inference_bytes(teacher, classes, size, images, dtype)
    return fixed + passing + RESERVE


def accumulation(
    network: Network,
    teacher: Network | None,
    protocol: Protocol,
    size: int,
    classes: int,
    dtype: str,
    workers: int,
    available: int,
) -> int:
    """Into how many equal parts each worker's share of a batch has to be cut so that a step fits into the memory.

    Gradients are summed over the parts, so that the step is that of the whole batch, but for BatchNorm: its statistics
    are those of each part. The row of a result names the number of parts.

    Args:
        network: As of `needed`, like those that follow.
        teacher: The same.
        protocol: The same.
        size: The same.
        classes: The same.
        dtype: The same.
        workers: The same.
        available: Bytes of the GPU's memory, before anything is there.

    Returns:
        1 if the whole share fits; parts differ by one image at most.

    Raises:
        UserError: Not even `LEAST` images fit, or a network cannot be built so.
    """

    def need(parts: int) -> int:
        return needed(network, teacher, protocol, size, classes, dtype, workers, parts)

    share = _share(protocol, workers)
    most = max(1, share // LEAST)
    if need(1) <= available:
        return 1
    if (least := need(most)) > available:
        raise UserError(
            f"evaluate.students: {networks.name(network)} at {size} px needs {least / 2**30:.1f} GiB for "
            f"{math.ceil(share / most)} images at a time, and the GPU has {available / 2**30:.1f}: choose a smaller "
            "evaluate.size, a smaller network, a larger GPU or, where students share one, a larger part (evaluate.gpus)"
        )
    few, many = 1, most  # too few, and enough: fewer images never need more
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if need(middle) <= available else (middle, many)
    return many


def free(device: torch.device) -> int:
    """Bytes of a GPU that this process may still take: what is free, and of its share of the GPU what it has not yet.

    The share is what `torch.cuda.set_per_process_memory_fraction` was told; by default all.
    """
    now, total = torch.cuda.mem_get_info(device)
    mine = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return max(min(now, mine - torch.cuda.memory_reserved(device)), 0)


def _share(protocol: Protocol, workers: int) -> int:
    return math.ceil(protocol.batch / workers)


class _Shapes:
    """A network and a batch whose tensors have no values; a context in which they can be used.

    They say that they are on the CPU, whose autocast and fused attention need no GPU to be tried.
    """

    def __init__(self, network: Network, classes: int, size: int, batch: int, dtype: str) -> None:
        with torch.device("meta"):
            self._model = networks.build(network, classes, size)
        self._shape = (batch, 3, size, size)
        self._low = dtype != "float32"
        self._mode = FakeTensorMode()
        self.tensors: Mapping[str, Tensor] = {}

    def __enter__(self) -> "_Shapes":
        self._mode.__enter__()
        named = [*self._model.named_parameters(), *self._model.named_buffers()]
        self.tensors = {name: _like(tensor) for name, tensor in named}
        self._images_NCHW = torch.empty(self._shape)
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)

    def forward(self, training: bool) -> None:
        """Runs the network."""
        self._model.train(training)
        with _FloatNorms(), torch.autocast("cpu", torch.bfloat16, enabled=self._low):
            torch.func.functional_call(self._model, dict(self.tensors), (self._images_NCHW,))


class _FloatNorms(TorchFunctionMode):
    """Computes in float32 what CUDA's autocast does, and the CPU's does not."""

    _FLOAT = frozenset({F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._FLOAT and args:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that are made and not yet dropped.

    Attributes:
        most: Highest that the count has been.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._now: int = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self._change(storage.nbytes())
            weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, size: int) -> None:
        self._now += size
        self.most = max(self.most, self._now)


class _Counter(TorchDispatchMode):
    """Counts operations that compute, and do not only allocate a tensor or look at one in another way."""

    _IDLE = frozenset({"aten::empty", "aten::detach", "aten::_unsafe_view", "aten::as_strided_"})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.OpOverload) and func.namespace == "aten":
            self.count += not func.is_view and func.name().partition(".")[0] not in self._IDLE
        return func(*args, **(kwargs or {}))


def _like(tensor: Tensor) -> Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return made.requires_grad_(isinstance(tensor, nn.Parameter) and tensor.requires_grad)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
