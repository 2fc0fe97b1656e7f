"""What a student is trained to lower; always computed in float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_CE_SHARE = 0.025


@dataclass
class Targets:
    """What a batch is compared with.

    Attributes:
        labels_N: Class of each image.
        partners_N: Class of the image of which a box was pasted into it; None without CutMix.
        kept: λ, share of each image's area that is its own; 1 without CutMix.
        given_NK: Probabilities that the set itself gives; None where its labels are hard.
        given_partners_NK: Those of the partners.
        teacher_NK: The teacher's logits of the mixed batch; None without a teacher.
    """

    labels_N: Tensor
    partners_N: Tensor | None = None
    kept: float = 1.0
    given_NK: Tensor | None = None
    given_partners_NK: Tensor | None = None
    teacher_NK: Tensor | None = None

    @classmethod
    def of(cls, labels_N: Tensor, given_NK: Tensor | None, mixed_N: Tensor | None, kept: float) -> "Targets":
        """Those of a batch.

        Args:
            labels_N: Class of each image.
            given_NK: Probabilities that the set gives.
            mixed_N: For each image the number of its partner in the batch; None without CutMix.
            kept: λ.
        """
        if mixed_N is None:
            return cls(labels_N, given_NK=given_NK)
        others_NK = None if given_NK is None else given_NK[mixed_N]
        return cls(labels_N, labels_N[mixed_N], kept, given_NK, others_NK)

    def part(self, index_M: Tensor) -> "Targets":
        """Those of some of the images."""
        return self._each(lambda tensor: tensor[index_M])

    def to(self, device: torch.device) -> "Targets":
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        """The same with each tensor changed."""
        tensors = (self.partners_N, self.given_NK, self.given_partners_NK, self.teacher_NK)
        partners, given, others, teacher = (None if each is None else change(each) for each in tensors)
        return Targets(change(self.labels_N), partners, self.kept, given, others, teacher)


def kl(student_NK: Tensor, targets: Targets, temperature: float) -> Tensor:
    """KL divergence of the student's softmax from the teacher's, both at this temperature, as a mean over images.

    There is no factor of temperature², as in RDED.
    """
    return F.kl_div(
        F.log_softmax(student_NK / temperature, 1),
        F.softmax(_teacher(targets) / temperature, 1),
        reduction="batchmean",
    )


def mse(student_NK: Tensor, targets: Targets, temperature: float) -> Tensor:
    """Mean squared error of the logits, and a little cross-entropy of the images' own labels: EDC's."""
    return F.mse_loss(student_NK, _teacher(targets)) + _CE_SHARE * F.cross_entropy(student_NK, targets.labels_N)


def cross_entropy(student_NK: Tensor, targets: Targets, temperature: float) -> Tensor:
    """Cross-entropy of the hard labels, weighted by area where a batch is mixed."""
    return _mixed_cross_entropy(student_NK, targets.labels_N, targets.partners_N, targets.kept)


def given_cross_entropy(student_NK: Tensor, targets: Targets, temperature: float) -> Tensor:
    """The same of the probabilities that the set itself gives."""
    if targets.given_NK is None:
        raise ValueError("this loss needs soft labels of the set's own")
    return _mixed_cross_entropy(student_NK, targets.given_NK, targets.given_partners_NK, targets.kept)


def _mixed_cross_entropy(student_NK: Tensor, own: Tensor, others: Tensor | None, kept: float) -> Tensor:
    loss = kept * F.cross_entropy(student_NK, own)
    return loss if others is None else loss + (1 - kept) * F.cross_entropy(student_NK, others)


def _teacher(targets: Targets) -> Tensor:
    if targets.teacher_NK is None:
        raise ValueError("this loss needs a teacher's logits")
    return targets.teacher_NK.float()


LOSSES: Mapping[str, Callable[[Tensor, Targets, float], Tensor]] = {
    "kl": kl,
    "mse": mse,
    "ce": cross_entropy,
    "given-ce": given_cross_entropy,
}
"""By the name in a protocol: from the student's logits, float32, the targets and the temperature."""

TEMPERED = ("kl",)
"""Those to which the temperature makes a difference."""
