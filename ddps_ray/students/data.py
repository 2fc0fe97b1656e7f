"""Images for training and validation, as squares: decoded once a node where there is room, else on each access."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as VF

from ddps_ray import manifest, schemas
from ddps_ray.errors import BadImage, UserError
from ddps_ray.sources.reading import read_image
from ddps_ray.storage import Run
from ddps_ray.students import images, memory
from ddps_ray.students.images import Fit

MEMORY_LIMIT = 2 << 30
"""Bytes of training images that a process holds in memory where the cache on disk has no room for them."""

_AHEAD = 3
_SHARE = 4  # a quarter of a GPU's memory that is free for this process may go to images, if a step has room beside


class Pictures:
    """Labelled square images.

    An image that cannot be decoded is left out of every batch and noted in `bad`; nothing else is lost with it.

    Attributes:
        rows: image_id, uri and class_id of each image.
        labels_N: Index of each image's class among `class_ids`.
        bad: Index and reason of every bad image: all of them from the start, unless images are decoded on each access.
    """

    def __init__(
        self,
        rows: pa.Table,
        class_ids: Sequence[str],
        fit: Fit,
        side: int,
        strict: bool = False,
        limit: int | None = None,
        transform: str | None = None,
    ) -> None:
        """Takes the images of `rows`, decoded at once, or on each access if there is no room for them.

        Args:
            rows: Table with at least image_id, uri and class_id.
            class_ids: The classes in the order of their labels.
            fit: Brings each image to side×side.
            side: Pixels.
            strict: A bad image ends the work.
            limit: Bytes: where the cache on disk has no room, so many are held in memory, and a larger set is decoded
                on each access. By default half of the free memory, and a larger set is an error.
            transform: What `fit` does, with all parameters, by which the cache knows it; None to leave the cache alone.

        Raises:
            UserError: An image is bad and `strict` is set, or there is no room and no `limit`.
        """
        labels = {class_id: label for label, class_id in enumerate(class_ids)}
        self.rows = rows
        self.labels_N = torch.tensor([labels[class_id] for class_id in rows["class_id"].to_pylist()], dtype=torch.long)
        self._uris: list[str] = rows["uri"].to_pylist()
        self._fit = fit
        self._held = images.load(self._uris, fit, side, transform, limit)
        self._held_NHWC = None if self._held is None else torch.from_numpy(self._held.pixels_NHWC)
        self.bad: dict[int, str] = {} if self._held is None else self._held.bad
        self._pool = None if self._held is not None else ThreadPoolExecutor(images.threads())
        self._strict = strict
        for index, reason in self.bad.items():
            self._refuse(index, reason)

    @classmethod
    def of(cls, images_NCHW: Tensor, labels_N: Tensor, rows: pa.Table) -> Self:
        """Takes images that are decoded already.

        Args:
            images_NCHW: Square images of shape N×3×S×S, uint8, or float32 on the scale of pixels (0 to 255).
            labels_N: Index of each image's class, int64.
            rows: Table with at least image_id, uri and class_id of each.

        Raises:
            ValueError: Shapes, kinds or numbers differ from these.
        """
        shape = tuple(images_NCHW.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"images of shape {shape} are not N×3×S×S")
        if images_NCHW.dtype not in (torch.uint8, torch.float32) or labels_N.dtype != torch.long:
            raise ValueError(f"images are {images_NCHW.dtype} and labels {labels_N.dtype}")
        if not len(images_NCHW) == len(labels_N) == len(rows):
            raise ValueError(f"{len(images_NCHW)} images, {len(labels_N)} labels and {len(rows)} rows")
        made = cls(rows.slice(0, 0), [], _as_it_is, shape[-1])
        made.rows, made.labels_N, made._uris = rows, labels_N.cpu(), rows["uri"].to_pylist()
        made._held_NHWC = images_NCHW.permute(0, 2, 3, 1).contiguous()
        return made

    def on(self, device: torch.device, needed: int = 0) -> Self:
        """Holds the images on a GPU if they take less than a quarter of its free memory, so that batches are there.

        Args:
            device: The GPU; with a CPU nothing changes.
            needed: Bytes of the free memory that have to be left.

        Returns:
            These pictures; as they were on a CPU, or without room.
        """
        if device.type != "cuda" or self._held_NHWC is None:
            return self
        free = memory.free(device)
        if self._held_NHWC.nbytes < min(free // _SHARE, free - needed):
            self._held_NHWC = self._held_NHWC.to(device)
            self._held = None  # which lets go of the cache
        return self

    def __len__(self) -> int:
        """Number of images, bad ones included."""
        return len(self._uris)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images of shape N×3×side×side and their labels of shape N, for each chunk of indices.

        Images are uint8 (see `of` for others), channels last in memory, on the device of `on`; labels on the CPU.
        """
        for images_NCHW, index_N in self.numbered(chunks):
            yield images_NCHW, self.labels_N[index_N]

    def numbered(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images as `batches` does, and the index of each, of shape N."""
        if self._held_NHWC is None:
            yield from self._decoded(chunks)
            return
        for chunk_N in chunks:
            good_N = self._good(chunk_N)
            images_NHWC = self._held_NHWC[good_N.to(self._held_NHWC.device, non_blocking=True)]
            yield images_NHWC.permute(0, 3, 1, 2), good_N

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

    def _decoded(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        assert self._pool is not None
        ahead: deque[tuple[Tensor, list[Future[Tensor | None]]]] = deque()
        for chunk_N in chunks:
            ahead.append((chunk_N, [self._pool.submit(self._decode, index) for index in chunk_N.tolist()]))
            if len(ahead) == _AHEAD:
                yield from self._collect(*ahead.popleft())
        while ahead:
            yield from self._collect(*ahead.popleft())

    def _collect(self, chunk_N: Tensor, futures: list[Future[Tensor | None]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields what could be decoded this time: an image that was bad once can be good now, and the reverse."""
        results = [future.result() for future in futures]
        decoded = [image_HWC for image_HWC in results if image_HWC is not None]
        if decoded:
            good_N = torch.tensor([image_HWC is not None for image_HWC in results])
            yield torch.stack(decoded).permute(0, 3, 1, 2), chunk_N[good_N]

    def _decode(self, index: int) -> Tensor | None:
        try:
            return torch.from_numpy(np.array(self._fit(read_image(self._uris[index]))))
        except BadImage as error:
            self.bad[index] = str(error)
            self._refuse(index, str(error))
            return None

    def _refuse(self, index: int, reason: str) -> None:
        if self._strict:
            raise UserError(f"{self._uris[index]}: {reason}")


@dataclass(frozen=True)
class Centre:
    """Resizes an image's shorter edge to `short` pixels, bilinearly, and cuts its middle, `size`×`size`."""

    short: int
    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the middle."""
        cut: Image.Image = VF.center_crop(VF.resize(image, self.short), [self.size, self.size])
        return cut


@dataclass(frozen=True)
class Stretch:
    """Resizes an image to `size`×`size`, bicubically."""

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the square."""
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC)


def validation_fit(size: int) -> Centre:
    """RDED's view of a validation image: shorter edge to `size // 7 * 8`, then its middle: 256 for 224, 32 for 32.

    Where that were less than `size`, and the rest black, the shorter edge is `size`.
    """
    return Centre(max(size, size // 7 * 8), size)


def training_fit(size: int) -> Centre:
    """A teacher's view of a training image: shorter edge to `size`, then its middle, so a long image loses its ends."""
    return Centre(size, size)


def class_ids(run: Run, split: str) -> list[str]:
    """Sorted class ids of a split; errors as in `manifest.dataset`."""
    found = manifest.dataset(run).to_table(columns=["class_id"], filter=ds.field("split") == split)
    return sorted(found["class_id"].unique().to_pylist())


def load_validation(run: Run, split: str, class_ids: Sequence[str], size: int) -> Pictures:
    """Loads the validation images of some classes, as `validation_fit` has them.

    Raises:
        UserError: The split has no image of these classes, or there is no room for them.
    """
    return kept(_rows(run, split, class_ids), class_ids, validation_fit(size), size)


def load_training(run: Run, split: str, class_ids: Sequence[str], size: int) -> Pictures:
    """Loads the training images of some classes, as `training_fit` has them.

    Raises:
        UserError: The split has no image of these classes.
    """
    return kept(_rows(run, split, class_ids), class_ids, training_fit(size), size, limit=MEMORY_LIMIT)


def kept(
    rows: pa.Table, class_ids: Sequence[str], fit: Fit, size: int, strict: bool = False, limit: int | None = None
) -> Pictures:
    """Pictures that are decoded once a node; arguments as of `Pictures`, and `fit` says its parameters by its repr."""
    return Pictures(rows, class_ids, fit, size, strict, limit, transform=repr(fit))


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


def _rows(run: Run, split: str, class_ids: Sequence[str]) -> pa.Table:
    """image_id, uri and class_id, sorted by image_id, so that order does not depend on the manifest's files."""
    wanted = (ds.field("split") == split) & ds.field("class_id").isin(list(class_ids))
    rows = manifest.dataset(run).to_table(columns=["image_id", "uri", "class_id"], filter=wanted)
    if not rows.num_rows:
        raise UserError(f"data: split {split!r} has no image of class {class_ids[0]!r} or any other of the set")
    return rows.sort_by("image_id")
