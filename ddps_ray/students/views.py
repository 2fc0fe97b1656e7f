"""What networks are shown in an epoch: its batches, augmented and mixed, which derive from seed and epoch alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ddps_ray.diffusion.noise import generator
from ddps_ray.students import augment
from ddps_ray.students.augment import Augmentation, Cut, Draws
from ddps_ray.students.optimising import epoch_batches
from ddps_ray.students.protocols import Protocol
from ddps_ray.students.sets import TrainingSet


@dataclass(frozen=True)
class View:
    """What is drawn for a batch.

    Attributes:
        draws: For its images.
        cut: What is pasted into them; None without CutMix.
    """

    draws: Draws
    cut: Cut | None


@dataclass(frozen=True)
class Shown:
    """A batch as networks see it.

    Attributes:
        images_NCHW: Its images: normalised, and mixed.
        index_N: Index of each in the set.
        view: What was drawn for it.
    """

    images_NCHW: Tensor
    index_N: Tensor
    view: View


class Views:
    """The batches of a training, the same on any device and for any number of workers."""

    def __init__(self, protocol: Protocol, seed: int, size: int) -> None:
        """Takes the protocol, the training's seed, and the side in pixels of what networks see."""
        self._batch, self._mix, self._seed, self._size = protocol.batch, protocol.cutmix, seed, size
        self._augment = Augmentation(size, protocol.crop_scale, protocol.shuffle, protocol.colour)

    def chunks(self, images: int, epoch: int) -> list[Tensor]:
        """Indices of the batches of an epoch."""
        return epoch_batches(images, self._batch, self._seed, epoch)

    def drawing(self, epoch: int, side: int) -> Callable[[int], View]:
        """What draws for the batches of an epoch, one after the other, each of so many images.

        Args:
            epoch: The epoch, from 0 on.
            side: Of the set's images, in pixels.
        """
        draws = generator(self._seed, f"epoch={epoch}", "augmentation")

        def draw(count: int) -> View:
            drawn = self._augment.draw(count, side, draws)
            return View(drawn, augment.draw_cut(count, self._size, draws) if self._mix else None)

        return draw

    def epoch(self, training_set: TrainingSet, epoch: int, device: torch.device, first: int = 0) -> Iterator[Shown]:
        """Yields the batches of an epoch.

        Args:
            training_set: The set.
            epoch: The epoch, from 0 on.
            device: Where the batches are to be.
            first: Batches that are passed over, at little cost.
        """
        chunks, draw = self.chunks(len(training_set), epoch), None
        for number, (images_NCHW, index_N) in enumerate(training_set.batches(chunks)):
            draw = draw or self.drawing(epoch, images_NCHW.shape[-1])
            view = draw(len(index_N))
            if number >= first:
                shown_NCHW = self._augment.apply(images_NCHW.to(device, non_blocking=True), view.draws)
                yield Shown(shown_NCHW if view.cut is None else augment.paste(shown_NCHW, view.cut), index_N, view)
