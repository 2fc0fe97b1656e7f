"""Optimisers, batches and the share of a worker: what the trainings of students and of teachers have in common."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddps_ray.diffusion.noise import generator
from ddps_ray.errors import UserError

_BETAS = (0.9, 0.999)
_MOMENTUM = 0.9

LEAST = 2
"""Images of the smallest batch, over all workers, or part of one: BatchNorm cannot do with fewer."""


@dataclass(frozen=True)
class Share:
    """Which part of a distributed training this process does."""

    rank: int = 0
    world: int = 1


ALONE = Share()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Splits the parameters as RDED does.

    Those of more than one dimension that are called weights decay; biases, norms, tokens, and embeddings and tables of
    positions do not.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups["weight" in name and weight.ndim > 1].append(weight)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW as RDED sets it."""
    fused = next(model.parameters()).device.type == "cuda"
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=_BETAS, fused=fused)


def sgd(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum, as Minimax sets it: all weights decay."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=_MOMENTUM, weight_decay=weight_decay)


OPTIMISERS = {"adamw": adamw, "sgd": sgd}
"""By the name in a protocol: from model, learning rate and weight decay."""


def epoch_batches(count: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """Indices of the batches of an epoch, of all workers together: the same for any number of them.

    The last two batches are evened out if the last one is less than half a batch: so many workers as `check_workers`
    allows have an image each then, and BatchNorm has two at least.
    """
    order_N = torch.randperm(count, generator=generator(seed, f"epoch={epoch}", "order"))
    batches = list(order_N.split(batch))
    if len(batches) > 1 and 2 * len(batches[-1]) < max(batch, 2 * LEAST):
        rest_M = torch.cat(batches[-2:])
        batches[-2:] = rest_M.tensor_split(min(2, len(rest_M) // LEAST))
    return batches


def check_workers(key: str, workers: int, batch: int, each: int) -> None:
    """Sees to it that every worker has images of every batch of `epoch_batches`.

    Args:
        key: What the recipe calls the number of workers.
        workers: Their number.
        batch: Images in a step, over all of them.
        each: Images that a worker needs.

    Raises:
        UserError: There are too many.
    """
    most = max(1, batch // 2 // each)
    if workers > most:
        raise UserError(f"{key}: {workers} workers cannot share batches of {batch} images: give {most} at most")


def parts_of(whole: int, share: Share, parts: int) -> tuple[Tensor, ...]:
    """Places in a batch of this worker's images, in parts that each go through the networks at once.

    There are as many parts on every worker, since BatchNorm has them all meet in each; and of one image, which
    BatchNorm can do with only if other workers have theirs, where there are several workers only.

    Args:
        whole: Images in the batch, over all workers.
        share: This worker's part of the training.
        parts: Most parts.
    """
    mine_N = torch.arange(share.rank, whole, share.world)
    return mine_N.tensor_split(max(1, min(parts, whole // max(share.world, LEAST))))


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a wrapper for distributed training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
