"""Images for training and validation, as squares: held in memory where they fit, else decoded on each access."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as VF

from ddps_ray import manifest, schemas, storage
from ddps_ray.errors import BadImage, UserError, first_line
from ddps_ray.sources.reading import read_image
from ddps_ray.storage import Run

Fit = Callable[[Image.Image], Image.Image]
"""Brings a decoded image to the side in pixels at which it is held."""

MEMORY_LIMIT = 2 << 30
"""Bytes of decoded images that are held in memory; a larger set is decoded again on each access."""

_AHEAD = 3


class Pictures:
    """Labelled square images.

    An image that cannot be decoded is left out of every batch and noted in `bad`; nothing else is lost with it.

    Attributes:
        rows: image_id, uri and class_id of each image.
        labels_N: Index of each image's class among `class_ids`.
        bad: Index and reason of every bad image met so far.
    """

    def __init__(
        self,
        rows: pa.Table,
        class_ids: Sequence[str],
        fit: Fit,
        side: int,
        strict: bool = False,
        limit: int = MEMORY_LIMIT,
    ) -> None:
        """Takes the images of `rows`, and decodes them all if they fit into `limit` bytes.

        Args:
            rows: Table with at least image_id, uri and class_id.
            class_ids: The classes in the order of their labels.
            fit: Brings each image to side×side.
            side: Pixels.
            strict: A bad image ends the work.
            limit: Bytes.

        Raises:
            UserError: An image is bad and `strict` is set.
        """
        labels = {class_id: label for label, class_id in enumerate(class_ids)}
        self.rows = rows
        self.labels_N = torch.tensor([labels[class_id] for class_id in rows["class_id"].to_pylist()], dtype=torch.long)
        self.bad: dict[int, str] = {}
        self._uris: list[str] = rows["uri"].to_pylist()
        self._fit = fit
        self._strict = strict
        self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        self._held_NCHW: Tensor | None = None
        if len(self) * 3 * side * side <= limit:
            held_NCHW = torch.zeros(len(self), 3, side, side, dtype=torch.uint8)
            for index, image_CHW in enumerate(self._pool.map(self._decode, range(len(self)))):
                if image_CHW is not None:
                    held_NCHW[index] = image_CHW
            self._held_NCHW = held_NCHW

    def __len__(self) -> int:
        """Number of images, bad ones included."""
        return len(self._uris)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields uint8 images of shape N×3×side×side and their labels of shape N, for each chunk of indices."""
        if self._held_NCHW is not None:
            for chunk_N in chunks:
                good_N = self._good(chunk_N)
                yield self._held_NCHW[good_N], self.labels_N[good_N]
            return
        ahead: deque[tuple[Tensor, list[Future[Tensor | None]]]] = deque()
        for chunk_N in chunks:
            ahead.append((chunk_N, [self._pool.submit(self._decode, index) for index in chunk_N.tolist()]))
            if len(ahead) == _AHEAD:
                yield from self._collect(*ahead.popleft())
        while ahead:
            yield from self._collect(*ahead.popleft())

    def in_order(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields every image once, `batch` at a time."""
        return self.batches(torch.arange(len(self)).split(batch))

    def quarantine(self, stage: str) -> pa.Table:
        """The bad images met so far, as quarantine rows."""
        rows = self.rows.take(pa.array(sorted(self.bad), pa.int64()))
        return schemas.table(
            {
                "image_id": rows["image_id"].to_pylist(),
                "uri": rows["uri"].to_pylist(),
                "stage": [stage] * len(rows),
                "reason": [self.bad[index] for index in sorted(self.bad)],
            },
            schemas.QUARANTINE,
        )

    def bad_class_ids(self) -> list[str]:
        """The class of each row of `quarantine`."""
        return list(self.rows["class_id"].take(pa.array(sorted(self.bad), pa.int64())).to_pylist())

    def _good(self, chunk_N: Tensor) -> Tensor:
        if not self.bad:
            return chunk_N
        return chunk_N[~torch.isin(chunk_N, torch.tensor(list(self.bad)))]

    def _collect(self, chunk_N: Tensor, futures: list[Future[Tensor | None]]) -> Iterator[tuple[Tensor, Tensor]]:
        images = [image_CHW for future in futures if (image_CHW := future.result()) is not None]
        if images:
            yield torch.stack(images), self.labels_N[self._good(chunk_N)]

    def _decode(self, index: int) -> Tensor | None:
        try:
            image = self._fit(read_image(self._uris[index]))
        except BadImage as error:
            if self._strict:
                raise UserError(f"{self._uris[index]}: {error}") from error
            self.bad[index] = str(error)
            return None
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class Distilled:
    """A distilled set.

    Attributes:
        pictures: Its images.
        mosaic: Whether they are mosaics of four patches.
    """

    pictures: Pictures
    mosaic: bool


def load_distilled(folder: str, class_ids: Sequence[str], size: int) -> Distilled:
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
    pictures = Pictures(rows, class_ids, lambda image: _square(image, size), size, strict=True)
    return Distilled(pictures, mosaic=bool(pc.max(metadata["slot"]).as_py()))


def read_metadata(folder: str) -> pa.Table:
    """Reads the metadata of a distilled set.

    Raises:
        UserError: It cannot be read, or is not what `distill` writes.
    """
    uri = storage.join(folder, "metadata.parquet")
    filesystem, path = storage.open_uri(uri)
    try:
        return schemas.check(schemas.dataset([path], filesystem, schemas.DISTILLED).to_table(), schemas.DISTILLED)
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        reason = first_line(error).rpartition(f"'{path}': ")[2].rstrip(".")
        raise UserError(f"{uri}: {reason}: delete it, and `ddps distill` makes the set again") from error


def class_ids(run: Run, split: str) -> list[str]:
    """Sorted class ids of a split; errors as in `manifest.dataset`."""
    found = manifest.dataset(run).to_table(columns=["class_id"], filter=ds.field("split") == split)
    return sorted(found["class_id"].unique().to_pylist())


def load_validation(run: Run, split: str, class_ids: Sequence[str], size: int) -> Pictures:
    """Loads the validation images of some classes: resized to 8/7 of `size`, centre crop of `size`.

    Raises:
        UserError: The split has no image of these classes.
    """
    return Pictures(_rows(run, split, class_ids), class_ids, lambda image: centre(image, size * 8 // 7, size), size)


def load_training(run: Run, split: str, class_ids: Sequence[str], size: int) -> Pictures:
    """Loads a teacher's training images: shorter edge to `size`, centre square, so a long image loses its ends.

    Raises:
        UserError: The split has no image of these classes.
    """
    return Pictures(_rows(run, split, class_ids), class_ids, lambda image: centre(image, size, size), size)


def centre(image: Image.Image, short: int, size: int) -> Image.Image:
    """Resizes an image's shorter edge to `short` pixels, bilinearly, and cuts its middle, `size`×`size`."""
    resized: Image.Image = VF.center_crop(VF.resize(image, short), [size, size])
    return resized


def _square(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _rows(run: Run, split: str, class_ids: Sequence[str]) -> pa.Table:
    """image_id, uri and class_id, sorted by image_id, so that order does not depend on the manifest's files."""
    wanted = (ds.field("split") == split) & ds.field("class_id").isin(list(class_ids))
    rows = manifest.dataset(run).to_table(columns=["image_id", "uri", "class_id"], filter=wanted)
    if not rows.num_rows:
        raise UserError(f"data: split {split!r} has no image of class {class_ids[0]!r} or any other of the set")
    return rows.sort_by("image_id")
