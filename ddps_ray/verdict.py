"""What the check of the judge has found, in figures and in words."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

_Z = 1.96
_MISREAD = 0.5


@dataclass(frozen=True)
class Verdict:
    """What the check has found.

    Attributes:
        images: Images on which it was made.
        comparisons: Own class against another, drawn at random; 0 where there is only one class.
        right: Those in which the own class's prompt predicts the noise better.
        timestep: The middle of the time steps.
        error: Mean squared error of the predicted noise there, under its own class's prompt, as a share of that of a
            model that gives zeros.
        misread: The same if the U-Net's output is read as the other prediction type.
        seconds: Time for scoring one image on this device, estimated.
        causes: Why it may be no judge, the likeliest first; empty where it is one.
    """

    images: int
    comparisons: int
    right: int
    timestep: int
    error: float
    misread: float
    seconds: float
    causes: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """Share of the comparisons that are right: its 95 % interval (Wilson)."""
        return wilson(self.right, self.comparisons)

    @property
    def is_chance(self) -> bool:
        """Whether it may as well have guessed."""
        return self.comparisons > 0 and self.interval[0] <= 1 / 2

    @property
    def is_misread(self) -> bool:
        """Whether the U-Net's output is not what the scheduler's configuration says."""
        return self.misread < _MISREAD * min(1.0, self.error)

    @property
    def is_judge(self) -> bool:
        """Whether scores by it can mean something."""
        return not (self.is_chance or self.is_misread)

    def line(self) -> str:
        """The verdict in words."""
        error = f"error at t = {self.timestep}: {self.error:.0%} of that without a model"
        if not self.comparisons:
            return f"one class, so that the judge cannot be tried ({error})"
        low, high = self.interval
        return (
            f"the judge prefers an image's own class to another in {self.right} of {self.comparisons} comparisons "
            f"(95 % interval {low:.0%} to {high:.0%}, chance is 50 %; {error})"
        )

    def reason(self) -> str:
        """Why it is no judge, in one line."""
        return f"model.path: {self.line()}. Likely cause{'s' * (len(self.causes) > 1)}: {'; '.join(self.causes)}"

    def as_json(self) -> dict[str, Any]:
        """The figures, for the run's record."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The verdict that `as_json` has written."""
        return cls(**values | {"causes": tuple(values["causes"])})


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    if not count:
        return 0.0, 1.0
    share, spread = right / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
