"""What students are trained on: images with their labels, and soft labels where the set itself gives them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from torch import Tensor

from ddps_ray.config import Evaluate
from ddps_ray.students import foreign
from ddps_ray.students.augment import Cut
from ddps_ray.students.data import Pictures
from ddps_ray.students.losses import Targets


def load_foreign(name: str, settings: Evaluate, labels: Mapping[str, int], wnids: Mapping[str, str]) -> "TrainingSet":
    """Loads a set that another program has made; arguments and errors as of `foreign.look`."""
    about = settings.foreign[name]
    found = foreign.load(name, about, labels, wnids, settings.size)
    class_ids = [found.class_ids[label] for label in found.labels_N.tolist()]
    rows = pa.table({"image_id": found.ids, "uri": found.ids, "class_id": class_ids})
    return TrainingSet(Pictures.of(found.images_NCHW, found.labels_N, rows), about.mosaic, found.given_NK)


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

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images of shape N×3×S×S, and the index of each in the set, of shape N, for chunks of indices."""
        yield from self.pictures.numbered(chunks)

    def targets(self, index_N: Tensor, cut: Cut | None) -> Targets:
        """What a batch is compared with, by the set's own labels.

        Args:
            index_N: Index of each of its images.
            cut: What was pasted into them, if anything.
        """
        given_NK = None if self.given_NK is None else self.given_NK[index_N]
        mixed_N, kept = (None, 1.0) if cut is None else (cut.partners_N, cut.kept)
        return Targets.of(self.pictures.labels_N[index_N], given_NK, mixed_N, kept)
