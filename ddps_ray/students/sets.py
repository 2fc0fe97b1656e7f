"""What students are trained on: images with their labels, and soft labels where the set itself gives them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from ddps_ray import storage
from ddps_ray.config import Evaluate
from ddps_ray.errors import UserError
from ddps_ray.selection.sets import read_metadata
from ddps_ray.students import data, foreign
from ddps_ray.students.augment import Cut
from ddps_ray.students.data import Pictures
from ddps_ray.students.losses import Targets

CHANGED = "has changed since the evaluation began: run it again, and students are trained on the set as it is now"
"""Said of a set that is not the one under whose digest a student would be filed."""


def load_distilled(folder: str, class_ids: Sequence[str], size: int) -> "TrainingSet":
    """Loads a finished distilled set by its metadata.

    Args:
        folder: Path or URI of `distilled/<name>/ipc=<k>`.
        class_ids: Its classes in the order of their labels.
        size: Side in pixels to which images of another size are brought.

    Raises:
        UserError: The metadata or an image is missing or damaged.
    """
    metadata = read_metadata(folder)
    files = metadata.group_by("file", use_threads=False).aggregate([("class_id", "min")]).sort_by("file")
    uris = [storage.join(folder, file) for file in files["file"].to_pylist()]
    rows = pa.table({"image_id": files["file"], "uri": uris, "class_id": files["class_id_min"]})
    pictures = data.kept(rows, class_ids, data.Stretch(size), size, strict=True)
    return TrainingSet(pictures, mosaic=bool(pc.max(metadata["slot"]).as_py()))


def load_foreign(
    name: str,
    settings: Evaluate,
    labels: Mapping[str, int],
    wnids: Mapping[str, str],
    digest: str,
    record: str | None = None,
) -> "TrainingSet":
    """Loads a set that another program has made, if it is still the one that was looked at.

    Args:
        name: As of `foreign.load`, and so are `labels`, `wnids` and `record`.
        settings: They have the set's.
        labels: Numbers of the class ids.
        wnids: WordNet ids.
        digest: Its `foreign.identity` when it was looked at.
        record: Where `foreign.look` has kept what it found.

    Raises:
        UserError: It is another set now; or as of `foreign.load`.
    """
    about = settings.foreign[name]
    found = foreign.load(name, about, labels, wnids, settings.size, record)
    if foreign.identity(about, found.digest) != digest:
        raise UserError(f"evaluate.foreign.{name}: {about.path} {CHANGED}")
    return TrainingSet(found.pictures, about.mosaic, found.given_NK)


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
