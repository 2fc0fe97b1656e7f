"""What the training of a student costs: operations, and bytes that go through the GPU's memory."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from ddps_ray.config import Network
from ddps_ray.gpus import Card
from ddps_ray.students import memory, networks
from ddps_ray.students.protocols import Protocol

BACKWARD = 2
"""Forward passes that a backward pass costs."""

STEP_TRAFFIC, FORWARD_TRAFFIC = 10.0, 3.5
"""How often what a network saves for its backward pass goes through the memory in a step, and in a forward pass alone.

For convolution, BatchNorm and ReLU, two tensors of which are saved: seven are read or written on the way forward, and
about twelve on the way back.
"""

BANDWIDTH_SHARE = 0.7
"""Share of a memory's published bandwidth that is reached."""

LAUNCH_SECONDS = 20e-6
"""Seconds of the CPU for each operation that it gives to the GPU: a step takes at least those of all its operations.

Assumed, not measured: Python, PyTorch and the driver take 10 to 30 µs together where nothing is compiled. Of a step's
operations only those of the networks are counted, and one on the way back for each on the way forward.
"""

_BATCH = 16


@dataclass(frozen=True)
class Cost:
    """What some work takes.

    Attributes:
        flops: Operations; a multiplication and an addition are two.
        traffic: Bytes read from the GPU's memory and written to it.
        launches: Operations of whole batches, each of which the CPU gives to the GPU; of validations not counted.
    """

    flops: float
    traffic: float
    launches: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.traffic + other.traffic, self.launches + other.launches)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.traffic * times, self.launches * times)

    def hours(self, card: Card, dtype: str, utilisation: float) -> float:
        """Hours of one GPU: of the operations, of the memory or of the launches, whichever takes longest.

        Args:
            card: The GPU.
            dtype: `float32` or `bfloat16`.
            utilisation: Share of its peak operations that is reached.
        """
        computing = self.flops / (card.peak(dtype) * utilisation)
        moving = self.traffic / (card.bandwidth * 1e9 * BANDWIDTH_SHARE)
        return max(computing, moving, self.launches * LAUNCH_SECONDS) / 3600


NOTHING = Cost(0, 0)


@lru_cache(maxsize=256)
def forward_flops(network: Network, classes: int, size: int) -> int:
    """Operations of a forward pass with one image; nothing is computed.

    Raises:
        UserError: The network cannot be built so.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        networks.build(network, classes, size).eval()(torch.empty(1, 3, size, size))
    return int(counter.get_total_flops())


def forward(network: Network, classes: int, size: int, dtype: str) -> Cost:
    """A forward pass without gradients with one image; errors as of `forward_flops`."""
    return Cost(forward_flops(network, classes, size), FORWARD_TRAFFIC * _saved(network, classes, size, dtype))


def step(network: Network, teacher: Network | None, classes: int, size: int, dtype: str) -> Cost:
    """One image's part of a step: the teacher forward, the student forward and back; errors as of `forward_flops`."""
    flops = (1 + BACKWARD) * forward_flops(network, classes, size)
    student = Cost(flops, STEP_TRAFFIC * _saved(network, classes, size, dtype))
    return student + (forward(teacher, classes, size, dtype) if teacher else NOTHING)


def steps(protocol: Protocol, images: int) -> int:
    """Steps of a training on so many images."""
    return protocol.epochs * math.ceil(images / protocol.batch)


def training(
    network: Network,
    teacher: Network | None,
    protocol: Protocol,
    images: int,
    tested: int,
    classes: int,
    size: int,
    dtype: str,
    workers: int = 1,
) -> Cost:
    """One student's training and its validations, as far as the GPU of the first worker has to do with them.

    Workers share each batch; the first one alone validates.

    Args:
        network: The student.
        teacher: The teacher; None if the protocol has none.
        protocol: Its epochs and validations.
        images: Images of the set.
        tested: Images on which it is validated.
        classes: Outputs.
        size: Side in pixels of what both see.
        dtype: `float32` or `bfloat16`.
        workers: Workers that share a batch, each with a GPU.

    Raises:
        UserError: A network cannot be built so.
    """
    trained = step(network, teacher, classes, size, dtype) * (protocol.epochs * images / workers)
    tests = forward(network, classes, size, dtype) * (tested * len(protocol.validations))
    return trained + tests + Cost(0, 0, steps(protocol, images) * _launches(network, teacher, classes, size))


def _launches(network: Network, teacher: Network | None, classes: int, size: int) -> int:
    """Operations of a step, whatever the batch."""
    taught = memory.operations(teacher, classes, size) if teacher else 0
    return taught + 2 * memory.operations(network, classes, size)


def _saved(network: Network, classes: int, size: int, dtype: str) -> float:
    """Bytes that an image adds to what is saved, apart from copies of the weights."""
    few, many = (memory.saved_bytes(network, classes, size, batch, dtype) for batch in (_BATCH, 2 * _BATCH))
    return (many - few) / _BATCH
