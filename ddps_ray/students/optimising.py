"""Optimisers, batches and the share of a worker: what the trainings of students and of teachers have in common."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddps_ray.diffusion.noise import generator

_BETAS = (0.9, 0.999)
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Share:
    """Which part of a distributed training this process does."""

    rank: int = 0
    world: int = 1


ALONE = Share()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Splits the weights into those of more than one dimension, which decay, and biases and norms, which do not."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW as RDED sets it."""
    fused = next(model.parameters()).device.type == "cuda"
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=_BETAS, fused=fused)


def sgd(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum, as Minimax sets it: all weights decay."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=_MOMENTUM, weight_decay=weight_decay)


OPTIMISERS = {"adamw": adamw, "sgd": sgd}
"""By the name in a protocol: from model, learning rate and weight decay."""


def epoch_batches(count: int, batch: int, seed: int, epoch: int, world: int = 1) -> list[Tensor]:
    """Indices of the batches of an epoch, of all workers together.

    A last batch of fewer than two images a worker is left out, as BatchNorm cannot use it, unless it is the only one.
    """
    order_N = torch.randperm(count, generator=generator(seed, f"epoch={epoch}", "order"))
    batches = list(order_N.split(batch))
    if len(batches) > 1 and len(batches[-1]) < 2 * world:
        batches.pop()
    return batches


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a wrapper for distributed training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
