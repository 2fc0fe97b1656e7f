"""What students are trained on: images with their labels, and soft labels where the set itself gives them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from torch import Tensor

from ddps_ray import manifest
from ddps_ray.config import Recipe
from ddps_ray.selection import sets
from ddps_ray.storage import Run
from ddps_ray.students import foreign
from ddps_ray.students.data import Pictures


def look_at_foreign(recipe: Recipe, run: Run) -> Iterator[tuple[str, foreign.Facts]]:
    """Checks each set of other programs on which students are trained, and yields its name and what it is.

    Raises:
        UserError: As in `foreign.look`; or the stage `index` has not finished.
    """
    for name in sets.foreign(recipe):
        yield name, foreign.look(name, recipe.evaluate.foreign[name], *manifest.known_classes(run, recipe.data.train))


def load_foreign(name: str, recipe: Recipe, run: Run) -> "TrainingSet":
    """Loads a set that another program has made; errors as in `foreign.load`."""
    about = recipe.evaluate.foreign[name]
    known = manifest.known_classes(run, recipe.data.train)
    found = foreign.load(name, about, *known, recipe.evaluate.size)
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

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yields images of shape N×3×S×S, labels of shape N and given labels of shape N×K, for chunks of indices."""
        if self.given_NK is None:
            yield from ((images_NCHW, labels_N, None) for images_NCHW, labels_N in self.pictures.batches(chunks))
            return
        for chunk_N, (images_NCHW, labels_N) in zip(chunks, self.pictures.batches(chunks), strict=True):
            yield images_NCHW, labels_N, self.given_NK[chunk_N]
