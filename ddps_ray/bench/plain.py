"""A plain training loop, against which `ddps bench training` measures that of the package: everything in memory."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import functional as VF

from ddps_ray.diffusion.noise import generator
from ddps_ray.students import augment
from ddps_ray.students.optimising import epoch_batches
from ddps_ray.students.protocols import Protocol
from ddps_ray.students.schedules import half_cosine


class PlainLoop:
    """RDED's training of a student, as one writes it for one student: torchvision crops each image of the batch.

    What is drawn for a batch is what the package draws, so that the losses of both can be compared.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, images_NCHW: Tensor, protocol: Protocol, seed: int, bfloat16: bool
    ) -> None:
        """Prepares it.

        Args:
            student: On its device.
            teacher: On the same device.
            images_NCHW: Mosaics, uint8, on the same device.
            protocol: RDED's settings.
            seed: Seed of order and augmentation.
            bfloat16: Whether the networks compute in bfloat16.
        """
        self._student, self._teacher, self._images_NCHW = student, teacher.eval(), images_NCHW
        self._protocol, self._seed, self._bfloat16 = protocol, seed, bfloat16
        weights = list(student.parameters())
        groups = [
            {"params": [each for each in weights if each.ndim > 1], "weight_decay": protocol.weight_decay},
            {"params": [each for each in weights if each.ndim == 1], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(groups, lr=protocol.lr)
        device = images_NCHW.device
        self._mean_C11 = torch.tensor(augment.MEAN, device=device)[:, None, None]
        self._std_C11 = torch.tensor(augment.STD, device=device)[:, None, None]

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Trains for one epoch, and yields the loss of each step."""
        self._student.train()
        for group in self._adam.param_groups:
            group["lr"] = self._protocol.lr * half_cosine(epoch, self._protocol.epochs)
        draws = generator(self._seed, f"epoch={epoch}", "augmentation")
        for batch_N in epoch_batches(len(self._images_NCHW), self._protocol.batch, self._seed, epoch):
            yield self._step(self._mixed(self._augmented(batch_N, draws), draws))

    def _augmented(self, batch_N: Tensor, draws: torch.Generator) -> Tensor:
        count, side = len(batch_N), self._images_NCHW.shape[-1]
        columns_N, rows_N = (torch.rand(2, count, generator=draws) < 0.5).tolist()
        boxes_N4 = augment.random_boxes(count, side, self._protocol.crop_scale, draws).tolist()
        flips_N = (torch.rand(count, generator=draws) < 0.5).tolist()
        made = []
        for place, index in enumerate(batch_N.tolist()):
            image = self._images_NCHW[index].float() / 255
            image = image.roll(side // 2, 2) if columns_N[place] else image
            image = image.roll(side // 2, 1) if rows_N[place] else image
            left, top, width, height = boxes_N4[place]
            image = VF.resized_crop(image, top, left, height, width, [side, side], antialias=False)
            made.append(VF.hflip(image) if flips_N[place] else image)
        batch_NCHW = (torch.stack(made) - self._mean_C11) / self._std_C11
        return batch_NCHW.contiguous(memory_format=torch.channels_last)

    def _mixed(self, batch_NCHW: Tensor, draws: torch.Generator) -> Tensor:
        count, side = len(batch_NCHW), batch_NCHW.shape[-1]
        partners_N = torch.randperm(count, generator=draws)
        kept = torch.rand((), generator=draws).item()
        x, y = torch.randint(side, (2,), generator=draws).tolist()
        left, top, right, bottom = augment.cutmix_box(side, kept, (x, y))
        box_NChw = batch_NCHW[partners_N, :, top:bottom, left:right]
        batch_NCHW[:, :, top:bottom, left:right] = box_NChw
        return batch_NCHW

    def _step(self, batch_NCHW: Tensor) -> Tensor:
        temperature = self._protocol.temperature
        with torch.autocast(batch_NCHW.device.type, torch.bfloat16, enabled=self._bfloat16):
            with torch.no_grad():
                taught_NK = self._teacher(batch_NCHW)
            logits_NK = self._student(batch_NCHW)
        goal_NK = F.softmax(taught_NK.float() / temperature, 1)
        loss = F.kl_div(F.log_softmax(logits_NK.float() / temperature, 1), goal_NK, reduction="batchmean")
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return loss.detach()
