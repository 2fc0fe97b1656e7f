"""Foreign sets of tensors: what `torch.save` or safetensors wrote, of which nothing but tensors is loaded."""

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ddps_ray import storage
from ddps_ray.config import ForeignSet
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import containers, folders
from ddps_ray.students.foreign import content
from ddps_ray.students.foreign.content import Content
from ddps_ray.students.foreign.naming import Naming

TORCH, SAFE = (".pt", ".pth"), ".safetensors"
IMAGE_KEYS = ("images", "image_tensor", "image_syn", "image", "data", "x")
LABEL_KEYS = ("labels", "label", "label_syn", "targets", "y")
SOFT_KEYS = ("soft_labels", "soft_label", *LABEL_KEYS)
_PAIRS = (("images_zca_best", "labels_best"), ("images_best", "labels_best"), ("images", "labels"))
"""Files of one folder that belong together; where there are some that MTT has freed of ZCA, the others are whitened."""

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
]
"""NumPy's plain numbers: DC, DSA and DM store accuracies beside their tensors."""

_CONVERT = 'torch.save({"images": images, "labels": labels}, file)'
_NOT_TORCH = "cannot be read as what torch.save writes"
_NO_PICKLE = ("Unsupported operand", "invalid load key")
"""What torch says of a file that does not begin as one of its own."""

_SUM_TOLERANCE = 0.01
_PRECISION = 0.01  # of a value in 0..255: floats of 32 bits are a hundred times as precise
_BEYOND = 0.2  # share of values outside 0..1 above which the normalisation is doubted; optimised images have some


def has_tensors(path: str) -> bool:
    """Says whether a place is a file of tensors, or a folder that has some."""
    if content.is_file(path):
        return _is_tensors(content.split(path)[1])
    return any(map(_is_tensors, folders.files(path)))


def read(settings: ForeignSet, naming: Naming) -> Content:
    """Reads images and labels, and checks them.

    Args:
        settings: The set.
        naming: The classes of the data set.

    Raises:
        UserError: There are none, or they are not what the settings say: shape, kind, number, range, classes.
    """
    source = _Source(settings)
    images_NCHW, labels = source.images_and_labels()
    _check_images(images_NCHW, settings)
    if labels.ndim == 0 or len(labels) != len(images_NCHW):
        raise UserError(
            f"{settings.path} has {len(images_NCHW)} images, but {len(labels) if labels.ndim else 1} labels"
        )
    pixels_NCHW, notes = _pixels(images_NCHW, settings)
    if settings.soft_labels == "none":
        class_of = naming.of_numbers(_whole_numbers(labels))
        order = content.in_order([class_of[label] for label in labels.tolist()])
        pixels_NCHW, labels = pixels_NCHW[order], labels[order]
        class_ids_N = tuple(class_of[label] for label in labels.tolist())
        class_ids, given_NK = naming.of_set(class_ids_N), None
        notes += naming.doubt(class_ids, "labels")
    else:
        given_NK = _soft(labels, settings)
        columns = naming.of_columns(given_NK.shape[1])
        class_ids = tuple(sorted(columns))
        given_NK = given_NK[:, [columns.index(class_id) for class_id in class_ids]]
        class_ids_N = tuple(class_ids[label] for label in given_NK.argmax(1).tolist())
    return Content(
        tuple(f"{number:06d}" for number in range(len(pixels_NCHW))),
        class_ids_N,
        class_ids,
        size=source.size,
        digest=content.digest_of(source.digests),
        images_NCHW=pixels_NCHW,
        given_NK=given_NK,
        notes=(*source.notes, *notes),
    )


class _Source:
    """The files of a set, of which each is read once.

    Attributes:
        size: Bytes read so far.
        digests: Of each file.
        notes: What the user should know.
    """

    def __init__(self, settings: ForeignSet) -> None:
        self.size = 0
        self.digests: list[str] = []
        self.notes: list[str] = []
        self._settings = settings
        self._image_keys = IMAGE_KEYS if settings.images is None else (settings.images,)
        self._usual = LABEL_KEYS if settings.soft_labels == "none" else SOFT_KEYS
        self._label_keys = self._usual if settings.labels is None else (settings.labels,)

    def images_and_labels(self) -> tuple[Tensor, Tensor]:
        path = self._settings.path
        if not content.is_file(path):
            path = storage.join(path, self._main(path))
        images, labels = self._parts(path, self._load(path))
        if labels is None:
            labels = self._alone(self._beside(path))
        if isinstance(labels, list) and all(type(label) is int for label in labels):
            labels = torch.tensor(labels, dtype=torch.long)
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            wrong = ("images", images) if not isinstance(images, Tensor) else ("labels", labels)
            raise UserError(
                f"{path}: its {wrong[0]} are no tensor, but {_described(wrong[1])}: convert with {_CONVERT}"
            )
        for called, held in (("images", images), ("labels", labels)):
            if held.layout != torch.strided or held.is_quantized or held.is_meta:
                raise UserError(f"{path}: its {called} are a sparse or quantised tensor: convert with {_CONVERT}")
        return images.detach(), labels.detach()

    def _main(self, folder: str) -> str:
        """The file of a folder that has the images."""
        files = [name for name in folders.files(folder) if _is_tensors(name)]
        if self._settings.images in files:
            self._image_keys = IMAGE_KEYS
            return str(self._settings.images)
        for stem, _ in _PAIRS:
            if found := [name for name in files if PurePosixPath(name).stem == stem]:
                return found[0]
        if len(files) == 1:
            return files[0]
        raise UserError(f"{folder} has {', '.join(files) or 'no files of tensors'}: name one file in `path`")

    def _beside(self, path: str) -> str:
        """The file of the labels that belong to a file of images."""
        folder, name = content.split(path)
        files = folders.files(folder)
        stem, ending = PurePosixPath(name).stem, PurePosixPath(name).suffix
        pairs = [f"{labels}{ending}" for images, labels in _PAIRS if images == stem]
        for wanted in (self._settings.labels, *pairs):
            if wanted in files:
                return storage.join(folder, wanted)
        raise UserError(f"{path} has images only: name the file of its labels, in the same folder, in `labels`")

    def _load(self, uri: str) -> Any:
        try:
            data = storage.read_bytes(uri)
        except OSError as error:
            raise UserError(f"{uri} cannot be read: {first_line(error)}") from error
        self.size += len(data)
        self.digests.append(hashlib.sha256(data).hexdigest())
        return _from_safe(uri, data) if content.split(uri)[1].endswith(SAFE) else _from_torch(uri, data)

    def _parts(self, uri: str, held: Any) -> tuple[Any, Any]:
        """Images and labels in what a file holds; None for labels that are not there."""
        if isinstance(held, Tensor):
            return held, None
        if isinstance(held, Mapping):
            return self._of_keys(uri, held)
        if isinstance(held, Sequence) and not isinstance(held, str) and held:
            return self._of_experiments(uri, held)
        raise UserError(f"{uri} holds {_described(held)}, and no tensors of images: convert with {_CONVERT}")

    def _of_keys(self, uri: str, held: Mapping[Any, Any]) -> tuple[Any, Any]:
        there = f"it has {', '.join(sorted(map(str, held))) or 'none'}"
        image = next((key for key in self._image_keys if key in held), None)
        if image is None:
            raise UserError(f"{uri} has no images under {' or '.join(self._image_keys)}; {there}: name it in `images`")
        if image == "data" and not isinstance(held[image], Tensor):
            return self._parts(uri, held[image])
        label = next((key for key in self._label_keys if key in held), None)
        if label is None and self._settings.labels is None:
            raise UserError(f"{uri} has no labels under {' or '.join(self._label_keys)}; {there}: name it in `labels`")
        return held[image], None if label is None else held[label]

    def _of_experiments(self, uri: str, held: Sequence[Any]) -> tuple[Any, Any]:
        """Images and labels, or a list of such pairs, as DC, DSA and DM store their experiments."""
        if isinstance(held[0], Sequence | Mapping) and not isinstance(held[0], str):
            if len(held) > 1:
                self.notes.append(f"warning: {uri} holds the sets of {len(held)} experiments; the first one is taken")
            return self._parts(uri, held[0])
        if len(held) != 2:
            raise UserError(f"{uri} holds {_described(held)}, not images and labels: convert with {_CONVERT}")
        return held[0], held[1]

    def _alone(self, uri: str) -> Any:
        """The labels of a file that has nothing else."""
        held = self._load(uri)
        if not isinstance(held, Mapping):
            return held
        keys = [key for key in self._usual if key in held] or list(held)[:1]
        return held[keys[0]] if keys else held


def _is_tensors(name: str) -> bool:
    return name.endswith((*TORCH, SAFE))


def _from_safe(uri: str, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{uri} cannot be read as safetensors: {first_line(error)}") from error


def _from_torch(uri: str, data: bytes) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not any(said in str(error) for said in _NO_PICKLE):
            raise UserError(
                f"{uri} has pickled objects, and only tensors are loaded: where you trust the file, load it yourself "
                f"and convert it with {_CONVERT}"
            ) from error
        raise UserError(f"{uri} {_NOT_TORCH}{containers.hint(uri) or ': it is damaged, or another format'}") from error
    except Exception as error:  # what a damaged file makes the unpickler raise is of any kind
        reason = "it is a TorchScript archive" if "TorchScript" in str(error) else first_line(error)
        raise UserError(f"{uri} {_NOT_TORCH}{containers.hint(uri) or f': {reason}'}") from error


def _described(held: Any) -> str:
    if isinstance(held, Sequence) and not isinstance(held, str):
        return f"a {type(held).__name__} of {len(held)}"
    return f"a {type(held).__name__}"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "no dimension"


def _check_images(images: Tensor, settings: ForeignSet) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
        channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
        hint = ": permute(0, 3, 1, 2) makes them so" if channels_last else ""
        raise UserError(f"{settings.path}: images are {_shape(images)}, not N×3×S×S{hint}")
    _check_values(images.float() if images.dtype.is_floating_point else images, settings)


def _check_values(images: Tensor, settings: ForeignSet) -> None:
    stated = settings.mean is not None or settings.std is not None
    if images.dtype == torch.uint8:
        if stated:
            raise UserError(f"{settings.path}: images are uint8, as they are seen: mean and std are for floats only")
        return
    if not images.dtype.is_floating_point:
        raise UserError(f"{settings.path}: images are {images.dtype}, neither floats nor uint8")
    if settings.mean is None or settings.std is None:
        raise UserError(
            f"{settings.path}: images are floats: give the mean and std by which they were normalised, "
            "[0, 0, 0] and [1, 1, 1] where they are in 0..1 as they are"
        )
    if bad := int((~torch.isfinite(images)).flatten(1).any(1).sum()):
        raise UserError(f"{settings.path}: {bad} of {len(images)} images have values that are not finite (NaN or Inf)")


def _pixels(images_NCHW: Tensor, settings: ForeignSet) -> tuple[Tensor, tuple[str, ...]]:
    """Undoes the normalisation: 0..255 is what is seen; and warns where that is not where the values are."""
    if settings.mean is None or settings.std is None:
        return images_NCHW.contiguous(), ()
    mean_C11, std_C11 = (torch.tensor(each).view(3, 1, 1) for each in (settings.mean, settings.std))
    images_NCHW = images_NCHW.float()
    unit_NCHW = images_NCHW * std_C11 + mean_C11
    beyond = ((unit_NCHW < 0) | (unit_NCHW > 1)).float().mean().item()
    notes: tuple[str, ...] = ()
    if beyond > _BEYOND:
        notes = (
            f"warning: {beyond:.0%} of its values are outside of 0..1 with this mean and std: see whether they are "
            "right; ZCA-whitened images must be brought back first",
        )
    elif any(settings.mean) and images_NCHW.min() >= 0 and images_NCHW.max() <= 1:
        notes = (
            "warning: its values are in 0..1, as those of images that were not normalised: see whether mean and "
            "std are right",
        )
    return _as_bytes(unit_NCHW.mul_(255)).contiguous(), notes


def _as_bytes(pixels_NCHW: Tensor) -> Tensor:
    """Values of 0..255 as bytes, if all are whole numbers but for their precision: they come from files of images."""
    whole_NCHW = pixels_NCHW.round()
    near = (pixels_NCHW - whole_NCHW).abs() <= _PRECISION
    inside = (whole_NCHW >= 0) & (whole_NCHW <= 255)
    return whole_NCHW.to(torch.uint8) if bool((near & inside).all()) else pixels_NCHW


def _whole_numbers(labels: Tensor) -> list[int]:
    if labels.ndim != 1:
        raise UserError(
            f"labels are {_shape(labels)}, not a whole number an image: say in `soft_labels` whether soft ones are "
            "logits or probabilities"
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or labels.is_complex():
        raise UserError(f"labels are {labels.dtype}, not whole numbers")
    return sorted(set(labels.tolist()))


def _soft(labels: Tensor, settings: ForeignSet) -> Tensor:
    """Soft labels as probabilities."""
    if labels.ndim != 2:
        raise UserError(f"labels are {_shape(labels)}, not soft ones, N×K: set `soft_labels` to none")
    if not bool(torch.isfinite(labels.float()).all()):
        raise UserError("soft labels have values that are not finite (NaN or Inf)")
    labels_NK = labels.float()
    if settings.soft_labels == "logits":
        return labels_NK.softmax(1)
    sums_N = labels_NK.sum(1)
    if bool((labels_NK < 0).any()) or bool(((sums_N - 1).abs() > _SUM_TOLERANCE).any()):
        raise UserError(
            f"soft labels are not probabilities: values from {labels_NK.min():.3g} to {labels_NK.max():.3g}, sums from "
            f"{sums_N.min():.3g} to {sums_N.max():.3g}; are they logits?"
        )
    return labels_NK
