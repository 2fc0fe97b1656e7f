"""Training of a classifier on the training split, to teach the students."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ddps_ray.config import Teacher
from ddps_ray.diffusion.noise import generator
from ddps_ray.students.augment import Augmentation
from ddps_ray.students.data import Pictures
from ddps_ray.students.optimising import ALONE, Share, adamw, epoch_batches, unwrapped
from ddps_ray.students.schedules import cosine

State = dict[str, Any]
"""Weights, optimiser and number of finished epochs: all that a training needs to go on."""

Save = Callable[[State, float], None]
"""Keeps the state after an epoch, with the loss of that epoch."""

Tell = Callable[[int, int], None]
"""Hears, after each step, how many epochs are finished, and how many images of the next one are done."""

_WEIGHT_DECAY = 0.01
_SAVES = 20


def train(
    model: nn.Module,
    pictures: Pictures,
    cfg: Teacher,
    size: int,
    save_state: Save,
    state: State | None = None,
    share: Share = ALONE,
    tell: Tell = lambda epochs, images: None,
) -> None:
    """Trains a classifier: AdamW, cosine to zero, random-resized crops and flips, cross-entropy.

    Order and augmentation of an epoch come from (seed, epoch), so a training that goes on from a saved state ends
    where an unbroken one would.

    Args:
        model: On its device; wrapped for distributed training if there are several workers.
        pictures: The training images.
        cfg: Epochs, batch, learning rate, crops, seed.
        size: Side in pixels of its input.
        save_state: Called about twenty times, and after the last epoch.
        state: What it was last called with, to go on from there.
        share: This worker's part.
        tell: Called after each step.
    """
    adam = adamw(model, cfg.lr, _WEIGHT_DECAY)
    done = _restore(model, adam, state) if state else 0
    due = saved_epochs(cfg.epochs)
    for epoch in range(done, cfg.epochs):
        loss = _epoch(model, adam, pictures, cfg, size, epoch, share, tell)
        if epoch + 1 in due:
            save_state({"model": unwrapped(model).state_dict(), "adam": adam.state_dict(), "epochs": epoch + 1}, loss)


def saved_epochs(epochs: int) -> set[int]:
    """Numbers of finished epochs after which the state is saved: at most twenty, the last always among them."""
    return set(range(epochs, 0, -math.ceil(epochs / _SAVES)))


def _epoch(
    model: nn.Module,
    adam: torch.optim.Optimizer,
    pictures: Pictures,
    cfg: Teacher,
    size: int,
    epoch: int,
    share: Share,
    tell: Tell,
) -> float:
    device = next(model.parameters()).device
    transform = Augmentation(size, cfg.crop_scale)
    draws = generator(cfg.seed, f"epoch={epoch}/rank={share.rank}", "augmentation")
    batches = epoch_batches(len(pictures), cfg.batch, cfg.seed, epoch)
    chunks = [batch_N[share.rank :: share.world] for batch_N in batches]
    losses, done = [], 0
    model.train()
    for step, (images_NCHW, labels_N) in enumerate(pictures.batches(chunks)):
        for group in adam.param_groups:
            group["lr"] = cfg.lr * cosine(epoch + step / len(chunks), cfg.epochs)
        seen_NCHW = transform(images_NCHW.to(device, non_blocking=True), draws)
        loss = F.cross_entropy(model(seen_NCHW), labels_N.to(device, non_blocking=True))
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        losses.append(loss.detach())
        done += len(batches[step])
        tell(epoch, done)
    return torch.stack(losses).mean().item()


def _restore(model: nn.Module, adam: torch.optim.Optimizer, state: State) -> int:
    unwrapped(model).load_state_dict(state["model"])
    adam.load_state_dict(state["adam"])
    return int(state["epochs"])
