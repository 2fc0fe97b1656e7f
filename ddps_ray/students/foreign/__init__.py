"""Distilled sets that other programs have made: checked before any training, and read as ours are."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as VF

from ddps_ray import imaging, storage
from ddps_ray.config import ForeignSet
from ddps_ray.errors import BadImage, UserError, first_line
from ddps_ray.sources import folders, reading
from ddps_ray.students.foreign import content, pictures, tensors
from ddps_ray.students.foreign.content import Content
from ddps_ray.students.foreign.naming import Naming

_FORMATS: dict[str, tuple[Callable[[str], bool], Callable[[ForeignSet, Naming], Content]]] = {
    "imagefolder": (pictures.has_folders, pictures.read_folders),
    "parquet": (pictures.has_parquet, pictures.read_parquet),
    "tensors": (tensors.has_tensors, tensors.read),
}
"""How each format is recognised and read."""

_OF_TENSORS = ("mean", "std", "soft_labels")


@dataclass(frozen=True)
class Facts:
    """What a foreign set is.

    Attributes:
        images: Number of images.
        counts: Number of images of each class id.
        class_ids: Its classes, sorted: the order of labels and of soft labels.
        size: Bytes of its files.
        digest: Of their content.
        side: Pixels of the shorter edge that most images have.
        soft: Whether it has soft labels of its own.
        rows: image_id, uri and class_id of its images, where they are encoded; None for tensors.
        notes: What the user should know, a line each.
    """

    images: int
    counts: dict[str, int]
    class_ids: tuple[str, ...]
    size: int
    digest: str
    side: int
    soft: bool
    rows: pa.Table | None
    notes: tuple[str, ...]

    @property
    def ipc(self) -> int:
        """Images per class, rounded; at least 1."""
        return max(1, round(self.images / len(self.class_ids)))


@dataclass(frozen=True)
class Foreign:
    """A foreign set in memory.

    Attributes:
        images_NCHW: Square images: uint8, or float32 in units of 0..255, neither rounded nor clipped.
        labels_N: Index of each image's class in `class_ids`; that of the largest soft label where there are some.
        given_NK: Its own soft labels as float32 probabilities, or None.
        class_ids: Its classes, sorted.
        size: Bytes of its files.
        digest: Of their content.
        ids: What each image is called.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    given_NK: Tensor | None
    class_ids: tuple[str, ...]
    size: int
    digest: str
    ids: tuple[str, ...]


def look(name: str, settings: ForeignSet, labels: Mapping[str, int], wnids: Mapping[str, str]) -> Facts:
    """Checks a set, reading every file once but decoding no image: only their headers.

    Args:
        name: What the recipe calls the set, for errors.
        settings: The set.
        labels: Number of each class id of the data set, as the manifest has them.
        wnids: WordNet ids of its class ids, where they are known.

    Raises:
        UserError: The set is not there, or not as its settings and the data set's classes want it.
    """
    with _named(name):
        found = _read(settings, labels, wnids)
        if found.images_NCHW is None:
            sizes = list(content.each(found.uris, _size_of))
            rows = pa.table({"image_id": found.ids, "uri": found.uris, "class_id": found.class_ids_N})
        else:
            sizes, rows = [(found.images_NCHW.shape[3], found.images_NCHW.shape[2])] * len(found.ids), None
    counts = dict.fromkeys(found.class_ids, 0) | Counter(found.class_ids_N)
    return Facts(
        len(found.ids),
        counts,
        found.class_ids,
        found.size,
        found.digest,
        side=Counter(map(min, sizes)).most_common(1)[0][0],
        soft=found.given_NK is not None,
        rows=rows,
        notes=(*found.notes, *_unequal(counts, found), *_oblong(sizes)),
    )


def load(name: str, settings: ForeignSet, labels: Mapping[str, int], wnids: Mapping[str, str], size: int) -> Foreign:
    """Reads a set whole: all images decoded, at one size.

    Args:
        name: As in `look`, and so are `settings`, `labels` and `wnids`.
        settings: The set.
        labels: Numbers of the class ids.
        wnids: WordNet ids.
        size: Side in pixels; images of another are resized, bicubically.

    Raises:
        UserError: As in `look`; or an image cannot be decoded: a distilled set is whole, or none.
    """
    with _named(name):
        found = _read(settings, labels, wnids)
        if found.images_NCHW is None:
            images_NCHW = torch.empty(len(found.uris), 3, size, size, dtype=torch.uint8)
            for place, image_CHW in enumerate(content.each(found.uris, partial(_decoded, size=size))):
                images_NCHW[place] = image_CHW
        else:
            images_NCHW = _resized(found.images_NCHW, size)
    places = {class_id: place for place, class_id in enumerate(found.class_ids)}
    labels_N = torch.tensor([places[class_id] for class_id in found.class_ids_N], dtype=torch.long)
    return Foreign(images_NCHW, labels_N, found.given_NK, found.class_ids, found.size, found.digest, found.ids)


def fit(image: Image.Image, size: int) -> Image.Image:
    """Brings an image to a square: shorter edge to `size` pixels, bicubically, and of a long one the middle."""
    resized = VF.resize(image, size, InterpolationMode.BICUBIC)
    square: Image.Image = VF.center_crop(resized, [size, size])
    return square


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the set in an error."""
    try:
        yield
    except OSError as error:
        raise UserError(f"evaluate.foreign.{name}: cannot be read: {first_line(error)}") from error
    except UserError as error:
        raise UserError(f"evaluate.foreign.{name}: {str(error).removeprefix('data: ')}") from error


def _read(settings: ForeignSet, labels: Mapping[str, int], wnids: Mapping[str, str]) -> Content:
    if not storage.exists(settings.path):
        raise UserError(f"{settings.path} does not exist")
    kind = _format(settings)
    if kind != "tensors" and (stray := [key for key in _OF_TENSORS if key in settings.model_fields_set]):
        raise UserError(f"{stray[0]} is for tensors, and {settings.path} is read as {kind}")
    return _FORMATS[kind][1](settings, Naming(labels, wnids, settings.classes))


def _format(settings: ForeignSet) -> str:
    if settings.format != "auto":
        return settings.format
    could = [kind for kind, (recognises, _) in _FORMATS.items() if recognises(settings.path)]
    if len(could) == 1:
        return could[0]
    if could:
        raise UserError(f"{settings.path} could be read as {' or '.join(could)}: say in `format` which it is")
    raise UserError(
        f"{settings.path} has {_contents(settings.path)}: neither folders of images by class, nor Parquet files of "
        "images, nor tensors"
    )


def _contents(path: str) -> str:
    if content.is_file(path):
        return "another ending than .parquet, .pt, .pth and .safetensors"
    here = folders.look(path)
    return ", ".join([f"{name}/" for name in here.folders[:3]] + list(here.files[:3])) or "nothing in it"


def _size_of(uri: str) -> tuple[int, int]:
    """Width and height in an image's header."""
    try:
        data = reading.read_encoded(uri)
    except BadImage as error:
        raise UserError(f"{uri}: {error}") from error
    try:
        with Image.open(io.BytesIO(data), formats=imaging.FORMATS) as image:
            return image.size
    except Exception as error:  # what a damaged header makes Pillow raise is of any kind
        raise UserError(f"{uri}: {'not an image' if data else 'empty file'}") from error


def _decoded(uri: str, size: int) -> Tensor:
    try:
        image = fit(reading.read_image(uri), size)
    except BadImage as error:
        raise UserError(f"{uri}: {error}: a distilled set must be whole") from error
    return _planes(image)


def _planes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _resized(images_NCHW: Tensor, size: int) -> Tensor:
    """Tensors at another size; those of bytes as Pillow does it, as images of files are."""
    if images_NCHW.shape[-1] == size:
        return images_NCHW
    if images_NCHW.dtype == torch.uint8:
        pixels = (image_CHW.permute(1, 2, 0).numpy() for image_CHW in images_NCHW)
        return torch.stack([_planes(fit(Image.fromarray(np.ascontiguousarray(image)), size)) for image in pixels])
    return F.interpolate(images_NCHW, (size, size), mode="bicubic", antialias=True, align_corners=False)


def _unequal(counts: Mapping[str, int], found: Content) -> tuple[str, ...]:
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if found.given_NK is not None or counts[least] == counts[most]:
        return ()
    return (
        f"warning: its classes differ in number: {counts[least]} images of {least}, {counts[most]} of {most}; "
        "its IPC is their rounded mean",
    )


def _oblong(sizes: list[tuple[int, int]]) -> tuple[str, ...]:
    count = sum(width != height for width, height in sizes)
    return (f"warning: {count} of its images are not square: of those the middle is taken",) if count else ()
