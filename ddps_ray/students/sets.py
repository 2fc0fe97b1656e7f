"""What students are trained on: images with their labels, and soft labels where the set itself gives them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ddps_ray.students.data import Pictures


@dataclass(frozen=True)
class TrainingSet:
    """A set in memory.

    Attributes:
        pictures: Its images.
        mosaic: Whether they are mosaics of four patches.
        given_NK: Probabilities of the classes that it gives each image; None where its labels are hard.
    """

    pictures: Pictures
    mosaic: bool
    given_NK: Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pictures)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yields images of shape N×3×S×S, labels of shape N and given labels of shape N×K, for chunks of indices."""
        if self.given_NK is None:
            yield from ((images_NCHW, labels_N, None) for images_NCHW, labels_N in self.pictures.batches(chunks))
            return
        for chunk_N, (images_NCHW, labels_N) in zip(chunks, self.pictures.batches(chunks), strict=True):
            yield images_NCHW, labels_N, self.given_NK[chunk_N]
