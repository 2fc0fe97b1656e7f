"""The scored patches of one class, and how they are found among the score shards without reading the other classes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from ddps_ray import shards, storage

Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels of the scaled image."""

COLUMNS = (
    "image_id",
    "uri",
    "class_id",
    "label",
    "scaled_width",
    "scaled_height",
    "left",
    "top",
    "patch_width",
    "patch_height",
    "typicality",
    "dift",
)
"""What selection reads of a score row; maps and terms stay on disk."""

Shards = dict[str, dict[str, int]]
"""For each class id the score shards that hold it, and the number of its scored images in each."""

_SCORED = ds.field("error").is_null()


@dataclass(frozen=True)
class Candidates:
    """The most typical patch of each of one class's n images, in the order of the image ids.

    Attributes:
        class_id: The class.
        label: Its index in the data set.
        image_ids: n ids, ascending, each once.
        uris: Where the n images are.
        scaled: (n, 2), width and height in pixels at which each image was scored.
        boxes: (n, 4), the patch as left, top, width, height, in pixels of the scaled image.
        typicality: (n,), T(p|c) of the patch: high = typical (paper, Eq. 6 with the sign turned).
        dift: (n, channels), the patch's diffusion feature.
    """

    class_id: str
    label: int
    image_ids: tuple[str, ...]
    uris: tuple[str, ...]
    scaled: NDArray[np.int64]
    boxes: NDArray[np.int64]
    typicality: NDArray[np.float64]
    dift: NDArray[np.float64]

    @classmethod
    def from_table(cls, rows: pa.Table) -> Self:
        """Builds the candidates from score rows of one class, in any order; rows with an error are left out.

        Raises:
            ValueError: The rows are of no class or several, repeat an image, or hold a number that is not finite.
        """
        if "error" in rows.column_names:
            rows = rows.filter(pc.is_null(rows.column("error")))
        rows = rows.sort_by("image_id")
        if len(pc.unique(rows.column("class_id"))) != 1:
            raise ValueError("candidates must be scored rows of exactly one class")
        image_ids = rows.column("image_id").to_pylist()
        found = cls(
            class_id=rows.column("class_id")[0].as_py(),
            label=rows.column("label")[0].as_py(),
            image_ids=tuple(image_ids),
            uris=tuple(rows.column("uri").to_pylist()),
            scaled=_integers(rows, "scaled_width", "scaled_height"),
            boxes=_integers(rows, "left", "top", "patch_width", "patch_height"),
            typicality=rows.column("typicality").to_numpy().astype(np.float64),
            dift=rows.column("dift").combine_chunks().flatten().to_numpy().astype(np.float64).reshape(len(rows), -1),
        )
        if len(set(image_ids)) < len(image_ids):
            raise ValueError(f"class {found.class_id!r}: an image was scored twice")
        finite = np.isfinite(found.typicality) & np.isfinite(found.dift).all(axis=1)
        if not finite.all():
            raise ValueError(f"{image_ids[int(np.argmin(finite))]}: its typicality or feature is not a finite number")
        return found

    def __len__(self) -> int:
        """The number of patches, which is that of images."""
        return len(self.image_ids)

    def box(self, index: int) -> Box:
        """The most typical patch of one image."""
        left, top, width, height = self.boxes[index].tolist()
        return left, top, width, height


def shards_by_class(scores: str) -> Shards:
    """Finds which score shards hold which classes; reads two columns only.

    Args:
        scores: Folder or URI of the score shards.

    Returns:
        Shards by their paths inside the folder's file system.
    """
    found: Shards = defaultdict(lambda: defaultdict(int))
    files = [info.path for info in storage.list_files(scores, recursive=False) if shards.is_shard(info)]
    if not files:
        return {}
    for part in shards.dataset(scores, files).scanner(columns=["class_id"], filter=_SCORED).scan_batches():
        for count in part.record_batch.column("class_id").value_counts().to_pylist():
            found[count["values"]][part.fragment.path] += count["counts"]
    return {class_id: dict(counts) for class_id, counts in found.items()}


def read_class(scores: str, paths: Sequence[str], class_id: str) -> Candidates:
    """Reads the candidates of one class.

    Args:
        scores: Folder or URI of the score shards.
        paths: Those that hold the class, as `shards_by_class` names them.
        class_id: The class.
    """
    rows = shards.dataset(scores, paths).to_table(
        columns=list(COLUMNS), filter=_SCORED & (ds.field("class_id") == class_id)
    )
    return Candidates.from_table(rows)


def _integers(rows: pa.Table, *columns: str) -> NDArray[np.int64]:
    return np.stack([rows.column(column).to_numpy().astype(np.int64) for column in columns], axis=1)
