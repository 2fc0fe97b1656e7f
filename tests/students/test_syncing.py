"""BatchNorm of several workers: real processes, each with a part of the images, beside one with all of them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from ddps_ray.config import Student
from ddps_ray.errors import UserError
from ddps_ray.students import networks, syncing

CPU = torch.device("cpu")


class Unknown(nn.BatchNorm2d):
    """A BatchNorm that may do anything."""


def small() -> nn.Module:
    """Convolutions with PyTorch's and timm's BatchNorm, whose activation is its own."""
    torch.manual_seed(2)
    layers = (nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.Hardswish), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    return nn.Sequential(*layers)


def timms() -> nn.Module:
    """One of timm's networks with such BatchNorms, whose running statistics are not those of the beginning."""
    torch.manual_seed(3)
    network = networks.build(Student(arch="mobilenetv3_small_050"), 3, 32)
    network(images(4, 32))
    return network.eval()


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def _worker(rank: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    network = syncing.together(small(), CPU)
    seen_NCHW = network(images(5, 8)[rank::2])  # three images, and two
    seen_NCHW.square().sum().backward()
    gradient = network.get_parameter("0.weight").grad
    assert gradient is not None
    dist.all_reduce(gradient)
    tested = syncing.together(timms(), CPU)
    for_gpus = syncing.together(timms(), torch.device("cuda"))  # where it can be tested, but not trained, without one
    unknown = nn.Sequential(Unknown(3))
    with pytest.raises(UserError, match=r"evaluate\.workers: a network with Unknown"):
        syncing.together(unknown, CPU)
    if rank == 0:
        found = {"seen": seen_NCHW.detach(), "gradient": gradient, "logits": tested(images(2, 32)).detach()}
        found["for_gpus"] = for_gpus(images(2, 32)).detach()
        torch.save(found | {"state": network.state_dict(), "names": list(tested.state_dict())}, f"{file}.found")
    dist.destroy_process_group()


def test_two_workers_do_what_one_does_with_pytorchs_and_timms_batch_norm(tmp_path: Path) -> None:
    spawn(_worker, (str(tmp_path / "meet"),), nprocs=2)
    found = torch.load(tmp_path / "meet.found", weights_only=True)
    alone = small()
    seen_NCHW = alone(images(5, 8))
    seen_NCHW.square().sum().backward()
    torch.testing.assert_close(found["seen"], seen_NCHW[::2].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["gradient"], alone.get_parameter("0.weight").grad, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["state"], alone.state_dict())
    network = timms()
    for converted in ("logits", "for_gpus"):
        torch.testing.assert_close(found[converted], network(images(2, 32)).detach())
    assert found["names"] == list(network.state_dict())
