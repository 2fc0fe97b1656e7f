"""Training of one student on a set, by a protocol (paper, section 4.1), from any epoch on."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddps_ray.diffusion.noise import generator
from ddps_ray.students import augment
from ddps_ray.students.data import Pictures
from ddps_ray.students.labels import Stored
from ddps_ray.students.losses import LOSSES, Targets
from ddps_ray.students.optimising import ALONE, OPTIMISERS, Share, parts_of, unwrapped
from ddps_ray.students.protocols import Protocol
from ddps_ray.students.schedules import SCHEDULES
from ddps_ray.students.sets import TrainingSet
from ddps_ray.students.views import Views

State = dict[str, Any]
"""Weights, optimiser, finished epochs and what was measured: all that a training needs to go on."""

Validate = Callable[[nn.Module], float]
"""Measures the accuracy of a network as it is now."""

EpochEnd = Callable[[Callable[[], State], int, float], None]
"""Called after each epoch with what gives the state, the number of finished epochs, and the epoch's mean loss."""

_VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """What a training gave.

    Attributes:
        accuracy_last: Top-1 after the last epoch, 0..1: the result.
        accuracy_best: Highest of the validations, which is chosen on the validation images themselves.
        best_epoch: Number of epochs after which that was, counted from 1.
        loss: Mean loss of the last epoch.
        seconds: Time of all epochs and validations, those before a break included.
    """

    accuracy_last: float
    accuracy_best: float
    best_epoch: int
    loss: float
    seconds: float


class Point(NamedTuple):
    """What an epoch gave.

    Attributes:
        epoch: Number of finished epochs.
        loss: Its mean loss.
        lr: Its learning rate.
        accuracy: Top-1 after it, 0..1; None where the student was not tested.
        time: When it ended, in seconds since 1970.
    """

    epoch: int
    loss: float
    lr: float
    accuracy: float | None
    time: float


@dataclass(frozen=True)
class Means:
    """How a training is done, as far as its result hardly depends on it.

    Attributes:
        size: Side in pixels of what the networks see.
        bfloat16: Whether the networks compute in bfloat16; losses and optimiser are in float32 always.
        parts: Parts into which each worker's share of a batch is cut, so that it fits into memory; BatchNorm then takes
            the statistics of a part.
        share: This worker's part of the training.
    """

    size: int
    bfloat16: bool = False
    parts: int = 1
    share: Share = ALONE


@torch.inference_mode()
def accuracy(model: nn.Module, pictures: Pictures, device: torch.device, bfloat16: bool = False) -> float:
    """Share of the readable images whose class has the highest logit; leaves the model in eval mode."""
    model.eval()
    right_ = torch.zeros((), dtype=torch.long, device=device)
    seen = 0
    for images_NCHW, labels_N in pictures.in_order(_VALIDATION_BATCH):
        shown_NCHW = augment.normalise(images_NCHW.to(device, non_blocking=True).float()).contiguous(
            memory_format=torch.channels_last
        )
        with _autocast(device, bfloat16):
            logits_NK = model(shown_NCHW)
        right_ += (logits_NK.argmax(1) == labels_N.to(device, non_blocking=True)).sum()
        seen += len(labels_N)
    return right_.item() / max(seen, 1)


class Training:
    """One student in training; the fixed teacher, in eval mode, sees exactly the mixed batch that the student sees.

    Attributes:
        history: What each finished epoch gave, those before a break included.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        training_set: TrainingSet,
        protocol: Protocol,
        seed: int,
        means: Means,
        stored: Stored | None = None,
    ) -> None:
        """Prepares it.

        Args:
            student: On its device; wrapped for distributed training if there are several workers.
            teacher: On the same device, with the same classes; None where the protocol has none.
            training_set: What it learns from.
            protocol: Settings.
            seed: Seed of order, augmentation and dropout.
            means: How it is done.
            stored: The teacher's logits of all batches, in the place of a teacher.
        """
        self._student, self._teacher, self._set = student, teacher, training_set
        self._protocol, self._seed, self._means = protocol, seed, means
        self._device = next(student.parameters()).device
        self._optimiser = OPTIMISERS[protocol.optimiser](student, protocol.lr, protocol.weight_decay)
        self._loss = LOSSES[protocol.loss]
        self._views, self._stored = Views(protocol, seed, means.size), stored
        self._mean_ = copy.deepcopy(unwrapped(student)) if protocol.ema else None
        self._measured: dict[int, float] = {}
        self._done, self._seconds = 0, 0.0
        self.history: list[Point] = []
        if teacher is not None:
            teacher.eval()

    def run(self, validate: Validate | None, after_epoch: EpochEnd | None = None) -> Outcome | None:
        """Trains from the epoch that it has come to up to the last.

        Args:
            validate: Measures accuracy at the epochs that the protocol names; None on workers without a result.
            after_epoch: Keeps the state, now and then.

        Returns:
            The outcome, or None where `validate` is None.
        """
        loss, begun = 0.0, time.monotonic() - self._seconds
        while self._done < self._protocol.epochs:
            loss = self._epoch(self._done)
            self._done += 1
            if validate is not None and self._done in self._protocol.validations:
                self._measured[self._done] = validate(self.tested)
            self._seconds = time.monotonic() - begun
            measured = self._measured.get(self._done)
            self.history.append(Point(self._done, loss, self._rate(self._done - 1), measured, time.time()))
            if after_epoch is not None:
                after_epoch(self.state, self._done, loss)
        if validate is None:
            return None
        best = max(self._measured, key=lambda done: (self._measured[done], -done))
        last = self._measured[self._protocol.epochs]
        return Outcome(last, self._measured[best], best, loss, self._seconds)

    @property
    def tested(self) -> nn.Module:
        """The network that is tested: the student, or the running mean of its weights."""
        return unwrapped(self._student) if self._mean_ is None else self._mean_

    def state(self) -> State:
        """All that `restore` needs."""
        return {
            "student": unwrapped(self._student).state_dict(),
            "mean": None if self._mean_ is None else self._mean_.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "epochs": self._done,
            "measured": self._measured,
            "seconds": self._seconds,
            "history": [tuple(point) for point in self.history],
        }

    def restore(self, state: State) -> None:
        """Goes on from where `state` was taken: the result is that of an unbroken training."""
        unwrapped(self._student).load_state_dict(state["student"])
        if self._mean_ is not None:
            self._mean_.load_state_dict(state["mean"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._done, self._measured, self._seconds = state["epochs"], dict(state["measured"]), state["seconds"]
        self.history = [Point(*point) for point in state.get("history", ())]  # which earlier versions did not keep

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Trains for one epoch, and yields the loss of each step, of this worker's share; without waiting for it."""
        torch.manual_seed(self._epoch_seed(epoch))  # of dropout and the like, also where a training goes on
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(epoch)
        self._student.train()
        # Whole batches, so that they are the same for any number of workers.
        for number, shown in enumerate(self._views.epoch(self._set, epoch, self._device)):
            targets = self._set.targets(shown.index_N, shown.view.cut)
            if self._stored is not None:
                targets.teacher_NK = self._stored.logits(epoch, number, shown.index_N, shown.view)
            yield self._step(shown.images_NCHW, targets.to(self._device))

    def _rate(self, epoch: int) -> float:
        return self._protocol.lr * SCHEDULES[self._protocol.schedule](epoch, self._protocol.epochs)

    def _epoch(self, epoch: int) -> float:
        return torch.stack(list(self.losses(epoch))).mean().item()

    def _epoch_seed(self, epoch: int) -> int:
        return generator(self._seed, f"epoch={epoch}/rank={self._means.share.rank}", "dropout").initial_seed()

    def _step(self, images_NCHW: Tensor, targets: Targets) -> Tensor:
        share, whole = self._means.share, len(images_NCHW)
        total = torch.zeros((), device=self._device)
        self._optimiser.zero_grad(set_to_none=True)
        parts = parts_of(whole, share, self._means.parts)
        for number, part_N in enumerate(part_N.to(self._device, non_blocking=True) for part_N in parts):
            weight = len(part_N) * share.world / whole  # the mean over workers is then that over the batch
            part = (images_NCHW, targets) if len(part_N) == whole else (images_NCHW[part_N], targets.part(part_N))
            with self._without_talk(last=number + 1 == len(parts)):
                loss = weight * self._loss_of(*part)
                loss.backward()
            total += loss.detach()
        self._optimiser.step()
        if self._mean_ is not None:
            _follow(self._mean_, unwrapped(self._student), self._protocol.ema)
        return total

    def _loss_of(self, images_NCHW: Tensor, targets: Targets) -> Tensor:
        with _autocast(self._device, self._means.bfloat16):
            if self._teacher is not None:
                with torch.no_grad():
                    targets.teacher_NK = self._teacher(images_NCHW)
            student_NK = self._student(images_NCHW)
        return self._loss(student_NK.float(), targets, self._protocol.temperature)

    def _without_talk(self, last: bool) -> AbstractContextManager[None]:
        """Gradients of parts are summed here, and among the workers with the last part only."""
        wrapped = isinstance(self._student, nn.parallel.DistributedDataParallel)
        return self._student.no_sync() if wrapped and not last else nullcontext()  # type: ignore[operator]


@torch.no_grad()
def _follow(mean_: nn.Module, model: nn.Module, decay: float) -> None:
    """Updates a running mean of the weights, without waiting for a GPU.

    As EDC's, it begins with the weights of the beginning; BatchNorm's statistics are those of the model as it is.
    """
    torch._foreach_lerp_(list(mean_.parameters()), list(model.parameters()), 1 - decay)
    for mine, other in zip(mean_.buffers(), model.buffers(), strict=True):
        mine.copy_(other)


def _autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()
