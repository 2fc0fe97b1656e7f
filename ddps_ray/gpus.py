"""GPU types: how fast they compute, and what their memory holds; and how many trainings share one."""

from dataclasses import dataclass

PEAKS = {
    "t4": (65.0, 8.1),
    "v100": (125.0, 15.7),
    "l4": (121.0, 30.3),
    "a10": (125.0, 31.2),
    "a10g": (70.0, 31.5),
    "l40s": (362.0, 91.6),
    "a100": (312.0, 19.5),
    "h100": (989.0, 67.0),
    "h200": (989.0, 67.0),
}
"""Peak TFLOP/s of GPU types as published: 16-bit on tensor cores, dense; and float32 without tensor cores: no TF32,
which `evaluate.precision: float32` switches off."""


def sharing(share: float) -> int:
    """How many trainings that take such a share of a GPU each, 0 to 1, go on one."""
    return int(1 / share)


@dataclass(frozen=True)
class Card:
    """A GPU as it is sold.

    Attributes:
        gpu: Its type, one of `PEAKS`.
        name: What a table calls it.
        gib: GiB of memory that a program finds on it, less than the name says.
        bandwidth: Of the memory, in GB/s as published.
    """

    gpu: str
    name: str
    gib: float
    bandwidth: float

    @property
    def memory(self) -> int:
        """Its memory in bytes."""
        return int(self.gib * 2**30)

    def peak(self, dtype: str) -> float:
        """FLOP/s at most, in this precision."""
        half, single = PEAKS[self.gpu]
        return 1e12 * (single if dtype == "float32" else half)


CARDS = (
    Card("l4", "L4", 22.0, 300),
    Card("a100", "A100", 39.4, 1555),
    Card("a100", "A100", 79.1, 2039),
    Card("h100", "H100", 79.1, 3350),
)
"""Those for which `ddps plan` says what an evaluation takes; all of them compute in bfloat16."""
