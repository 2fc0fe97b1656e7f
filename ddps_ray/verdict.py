"""What the check of the judge has found, in figures and in words."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

_Z = 1.96
_MISREAD = 0.5
_BROKEN = 0.05  # of the images
_GOOD = 0.7  # of the comparisons; a model for which that is not excluded is not yet one that guesses


@dataclass(frozen=True)
class Verdict:
    """What the check has found.

    Attributes:
        images: Images on which it was made.
        broken: Further ones for which the model's output is not finite.
        comparisons: Own class against another; 0 where there is only one class.
        right: Those in which the own class's prompt predicts the noise better.
        timestep: The middle of the time steps.
        error: Mean squared error of the predicted noise there, under its own class's prompt, as a share of that of a
            model that gives zeros.
        misread: The same if the U-Net's output is read as the other prediction type.
        seconds: Time for scoring one image on this device, estimated.
        device: "cuda" or "cpu".
        causes: Why it may be no judge, the likeliest first; empty where it is one.
    """

    images: int
    broken: int
    comparisons: int
    right: int
    timestep: int
    error: float
    misread: float
    seconds: float
    device: str
    causes: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """Share of the comparisons that are right: its 95 % interval (Wilson), those of an image counted as one."""
        return wilson(self.images * self.right / self.comparisons, self.images) if self.comparisons else (0.0, 1.0)

    @property
    def is_better_than_chance(self) -> bool:
        """Whether it does more than guess."""
        return self.interval[0] > 1 / 2

    @property
    def is_chance(self) -> bool:
        """Whether it may as well have guessed, and is no good judge if it has not."""
        return self.comparisons > 0 and not self.is_better_than_chance and self.interval[1] < _GOOD

    @property
    def is_misread(self) -> bool:
        """Whether the U-Net's output is not what the scheduler's configuration says."""
        return self.misread < _MISREAD * min(1.0, self.error)

    @property
    def is_broken(self) -> bool:
        """Whether the model's output is not finite more often than now and then."""
        return self.broken > _BROKEN * (self.images + self.broken)

    @property
    def is_judge(self) -> bool:
        """Whether scores by it can mean something, as far as can be told."""
        return not (self.is_chance or self.is_misread or self.is_broken)

    def line(self) -> str:
        """The verdict in words."""
        error = f"error at t = {self.timestep}: {self.error:.0%} of that without a model"
        if not self.images:
            return f"the model's output is not finite in {self.broken} of {self.broken} images"
        if not self.comparisons:
            return f"one class, so that the judge cannot be tried ({error})"
        low, high = self.interval
        return (
            f"the judge prefers an image's own class to another in {self.right} of {self.comparisons} comparisons "
            f"(95 % interval {low:.0%} to {high:.0%}, chance is 50 %; {error})"
        )

    def doubts(self) -> list[str]:
        """What it leaves open, or finds besides."""
        found = []
        if self.comparisons and not (self.is_better_than_chance or self.is_chance):
            found.append(f"{self.images} images are too few to tell whether the model is a judge of such images")
        if self.images and self.error >= 1:
            found.append(
                f"at t = {self.timestep} the model's error is {self.error:.0%} of that without a model: a damaged "
                "model, or images or a size that it does not know"
            )
        if self.broken:
            found.append(f"the model's output is not finite in {self.broken} of {self.images + self.broken} images")
        return found

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


def wilson(right: float, count: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    if not count:
        return 0.0, 1.0
    share, spread = right / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
