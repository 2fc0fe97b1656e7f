"""Training of one student on a distilled set with a teacher's soft labels (paper, section 4.1; RDED's protocol)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddps_ray.config import Evaluate, Student
from ddps_ray.diffusion.noise import generator
from ddps_ray.students import augment, networks
from ddps_ray.students.data import Distilled, Pictures

Validate = Callable[[], float]
"""Measures the student's accuracy as it is now."""

VALIDATIONS = 20
"""How often at most a run is validated."""

_VALIDATION_BATCH = 256
_FEW_CLASSES, _TINY_IMAGENET_CLASSES = 100, 200
_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Share:
    """Which part of a distributed training this process does."""

    rank: int = 0
    world: int = 1


ALONE = Share()


@dataclass(frozen=True)
class Protocol:
    """The settings of one training.

    Attributes:
        epochs: Passes over the distilled set.
        batch: Images in a step, over all workers.
        lr: AdamW's learning rate in the first epoch.
        weight_decay: On weights of more than one dimension.
        temperature: Of both softmaxes.
        cutmix: Mix every batch.
        size: Side in pixels of what the networks see.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    temperature: float
    cutmix: bool
    size: int

    @classmethod
    def of(cls, settings: Evaluate, student: Student, ipc: int, classes: int) -> "Protocol":
        """The protocol of a student on a set of so many images and classes; RDED's where the recipe leaves it open."""
        return cls(
            epochs=settings.epochs,
            batch=settings.batch or batch_size(ipc, classes),
            lr=networks.learning_rate(student),
            weight_decay=settings.weight_decay,
            temperature=settings.temperature,
            cutmix=settings.cutmix,
            size=settings.size,
        )


@dataclass(frozen=True)
class Outcome:
    """What a training gave.

    Attributes:
        accuracy_last: Top-1 after the last epoch, 0..1: the result.
        accuracy_best: Highest of the validations, which is chosen on the validation images themselves.
        best_epoch: Number of epochs after which that was, counted from 1.
        loss: Mean loss of the last epoch.
    """

    accuracy_last: float
    accuracy_best: float
    best_epoch: int
    loss: float


def batch_size(ipc: int, classes: int) -> int:
    """RDED's batch size: 10, 50, 100 for few classes, 20, 100, 200 for 100 and more, at IPC from 1, 10, 50 on.

    Tiny ImageNet's 200 classes have 100 at every IPC.
    """
    if classes == _TINY_IMAGENET_CLASSES:
        return 100
    small, middle, large = (10, 50, 100) if classes < _FEW_CLASSES else (20, 100, 200)
    if ipc < 10:
        return small
    return middle if ipc < 50 else large


def learning_rate_factor(epoch: int, epochs: int) -> float:
    """RDED's schedule, constant inside an epoch: a cosine that has come down to half when training ends."""
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Splits the weights into those of more than one dimension, which decay, and biases and norms, which do not."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]


def optimiser(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW as RDED sets it."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=_BETAS)


def soft_label_loss(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's softmax from the teacher's, both at this temperature, as a mean over images.

    There is no factor of temperature², as in RDED.
    """
    return F.kl_div(
        F.log_softmax(student_NK / temperature, 1), F.softmax(teacher_NK / temperature, 1), reduction="batchmean"
    )


def epoch_chunks(count: int, batch: int, seed: int, epoch: int, share: Share = ALONE) -> list[Tensor]:
    """Indices of one worker's batches of an epoch: the same shuffle on all workers, of which each takes its share.

    A last batch of fewer than two images a worker is left out, as BatchNorm cannot use it, unless it is the only one.
    """
    order_N = torch.randperm(count, generator=generator(seed, f"epoch={epoch}", "order"))
    chunks = list(order_N.split(batch))
    if len(chunks) > 1 and len(chunks[-1]) < 2 * share.world:
        chunks.pop()
    return [chunk_N[share.rank :: share.world] for chunk_N in chunks]


def validated_epochs(epochs: int) -> set[int]:
    """Numbers of finished epochs after which a run is validated: at most `VALIDATIONS`, the last always among them."""
    every = math.ceil(epochs / VALIDATIONS)
    return set(range(epochs, 0, -every))


def accuracy(model: nn.Module, pictures: Pictures, device: torch.device) -> float:
    """Share of the readable images whose class has the highest logit; leaves the model in eval mode."""
    model.eval()
    right = seen = 0
    with torch.inference_mode():
        for images_NCHW, labels_N in pictures.in_order(_VALIDATION_BATCH):
            logits_NK = model(augment.normalise(images_NCHW.to(device).float()))
            right += int((logits_NK.argmax(1).cpu() == labels_N).sum())
            seen += len(labels_N)
    return right / max(seen, 1)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a wrapper for distributed training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def train_student(
    student: nn.Module,
    teacher: nn.Module,
    distilled: Distilled,
    protocol: Protocol,
    seed: int,
    validate: Validate | None,
    share: Share = ALONE,
) -> Outcome | None:
    """Trains a student; the fixed teacher, in eval mode, labels exactly the mixed batch that the student sees.

    The validation split can be a hundred times larger than the distilled set, so only every so many epochs are
    validated (`validated_epochs`); the best epoch is the best of those.

    Args:
        student: On its device; wrapped for distributed training if there are several workers.
        teacher: On the same device, with the same classes.
        distilled: The set.
        protocol: Settings.
        seed: Seed of order and augmentation.
        validate: Measures the student's accuracy; None on workers whose result is not wanted.
        share: This worker's part.

    Returns:
        The outcome, or None where `validate` is None.
    """
    device = next(student.parameters()).device
    adam = optimiser(student, protocol.lr, protocol.weight_decay)
    teacher.eval()
    due = validated_epochs(protocol.epochs)
    measured: dict[int, float] = {}
    loss = 0.0
    for epoch in range(protocol.epochs):
        for group in adam.param_groups:
            group["lr"] = protocol.lr * learning_rate_factor(epoch, protocol.epochs)
        student.train()
        losses = [
            _step(student, teacher, images_NCHW, protocol.temperature, adam)
            for images_NCHW in _mixed_batches(distilled, protocol, seed, epoch, share, device)
        ]
        loss = torch.stack(losses).mean().item()
        if validate is not None and epoch + 1 in due:
            measured[epoch + 1] = validate()
    if not measured:
        return None
    best = max(measured, key=lambda done: (measured[done], -done))
    return Outcome(measured[protocol.epochs], measured[best], best, loss)


def _mixed_batches(
    distilled: Distilled, protocol: Protocol, seed: int, epoch: int, share: Share, device: torch.device
) -> Iterator[Tensor]:
    transform = augment.for_distilled(distilled.mosaic, protocol.size)
    draws = generator(seed, f"epoch={epoch}/rank={share.rank}", "augmentation")
    chunks = epoch_chunks(len(distilled.pictures), protocol.batch, seed, epoch, share)
    for images_NCHW, _ in distilled.pictures.batches(chunks):
        augmented_NCHW = transform(images_NCHW.to(device), draws)
        yield augment.cutmix(augmented_NCHW, draws) if protocol.cutmix else augmented_NCHW


def _step(
    student: nn.Module, teacher: nn.Module, images_NCHW: Tensor, temperature: float, adam: torch.optim.AdamW
) -> Tensor:
    with torch.no_grad():
        teacher_NK = teacher(images_NCHW)
    loss = soft_label_loss(student(images_NCHW), teacher_NK, temperature)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()
    return loss.detach()
