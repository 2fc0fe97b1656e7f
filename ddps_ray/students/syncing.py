"""What workers share, so that a training is the same on any number of them: first of all BatchNorm over all images."""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ddps_ray.errors import UserError

_KNOWN = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d}
"""Others may do more than normalise, which a BatchNorm in their place would not."""


class _OnCpus(_BatchNorm):
    """What `nn.SyncBatchNorm`, which PyTorch has for GPUs alone, does: for CPUs.

    Attributes:
        drop: What timm's BatchNorm does after it has normalised; nothing in PyTorch's own.
        act: What it does then: its activation.
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Normalises by the mean and variance of each channel over all workers' images, then drops and activates."""
        activated_NCHW: Tensor = self.act(self.drop(self._normalised(images_NCHW)))
        return activated_NCHW

    def _normalised(self, images_NCHW: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                images_NCHW, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        axes = [axis for axis in range(images_NCHW.ndim) if axis != 1]
        shape = [1, -1] + [1] * (images_NCHW.ndim - 2)
        count = _total(images_NCHW.new_tensor(images_NCHW.numel() / images_NCHW.shape[1]))
        mean_C = _total(images_NCHW.sum(axes)) / count
        centred_NCHW = images_NCHW - mean_C.view(shape)
        variance_C = _total(centred_NCHW.square().sum(axes)) / count
        self._remember(mean_C.detach(), variance_C.detach() * count / (count - 1))
        normal_NCHW = centred_NCHW / (variance_C + self.eps).sqrt().view(shape)
        return normal_NCHW * self.weight.view(shape) + self.bias.view(shape)

    def _remember(self, mean_C: Tensor, variance_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(variance_C, momentum)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - PyTorch's name
        """Takes any."""


def together(model: nn.Module, device: torch.device) -> nn.Module:
    """Makes a network's BatchNorms those of all workers, if there are several.

    Args:
        model: The network; its own modules may be replaced.
        device: Where it is to be trained.

    Raises:
        UserError: It has a BatchNorm of an unknown kind.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return model
    kinds = {type(module) for module in model.modules() if isinstance(module, _BatchNorm)}
    if unknown := sorted(kind.__name__ for kind in kinds - _KNOWN):
        raise UserError(f"evaluate.workers: a network with {unknown[0]} can be trained by one worker only")
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted
    return _on_cpus(model)


def _on_cpus(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _converted(module)
    for name, child in module.named_children():
        setattr(module, name, _on_cpus(child))
    return module


def least(value: int, device: torch.device) -> int:
    """The smallest of the values that the workers have; all of them must ask.

    Args:
        value: This worker's.
        device: Where it computes.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    smallest = torch.tensor(value, device=device)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest.item())


def _converted(norm: _BatchNorm) -> _BatchNorm:
    made = _OnCpus(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made.drop, made.act = (getattr(norm, name, nn.Identity()) for name in ("drop", "act"))
    made.load_state_dict(norm.state_dict())
    made.training = norm.training
    return made


def _total(values: Tensor) -> Tensor:
    total: Tensor = all_reduce(values)
    return total
