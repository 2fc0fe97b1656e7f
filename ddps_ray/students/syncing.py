"""What workers share, so that a training is the same on any number of them: first of all BatchNorm over all images."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class _OnCpus(_BatchNorm):
    """What `nn.SyncBatchNorm`, which PyTorch has for GPUs alone, does: for CPUs."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Normalises by the mean and variance of each channel over all workers' images."""
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
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return model
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for name, child in model.named_children():
        setattr(model, name, _converted(child) if isinstance(child, _BatchNorm) else together(child, device))
    return model


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
    made.load_state_dict(norm.state_dict())
    return made


def _total(values: Tensor) -> Tensor:
    total: Tensor = all_reduce(values)
    return total
