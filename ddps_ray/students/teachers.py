"""The fixed classifiers whose soft labels teach the students: published, from a file, or trained by `ddps teacher`."""

import contextlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ddps_ray import storage
from ddps_ray.config import Evaluate, Network, Teacher
from ddps_ray.errors import UserError, first_line
from ddps_ray.students import networks, protocols, published, weight_files
from ddps_ray.students.augment import MEAN, STD
from ddps_ray.students.published import Colour
from ddps_ray.verdict import wilson

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "teacher.json"

_HINT = (
    ": they go by ImageNet's WordNet ids, which data.classes can give in a third column or, as imagenet-1k, by name; "
    "for other classes set teacher.weights=trained"
)
_DOUBTED = 0.3
"""Of the way from guessing to knowing all: a set of which a teacher knows more has the right labels, however small."""
_CLOSE = 0.005
"""An accuracy is the expected one if it is off by no more than this."""


class HeadSlice(nn.Module):
    """A classifier of which only some outputs are kept: the same as slicing the rows of its head."""

    kept_K: Tensor

    def __init__(self, classifier: nn.Module, kept: Sequence[int]) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("kept_K", torch.tensor(kept))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of the kept outputs, in the given order."""
        logits_NK: Tensor = self.classifier(images_NCHW)
        return logits_NK.index_select(1, self.kept_K)


class Renormalised(nn.Module):
    """A classifier that was trained with another mean and standard deviation than ImageNet's, for images with those."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, classifier: nn.Module, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.classifier = classifier
        given, own = (torch.tensor(pair).view(2, 3, 1, 1) for pair in ((MEAN, STD), (mean, std)))
        self.register_buffer("scale_C11", given[1] / own[1])
        self.register_buffer("shift_C11", (given[0] - own[0]) / own[1])

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of images that are normalised with ImageNet's mean and standard deviation."""
        logits_NK: Tensor = self.classifier(images_NCHW * self.scale_C11 + self.shift_C11)
        return logits_NK


@dataclass(frozen=True)
class _Source(ABC):
    """Where a teacher's weights come from.

    Attributes:
        cfg: Which teacher.
        folder: Where `ddps teacher` saved a trained one.
    """

    cfg: Teacher
    folder: str

    by_wnid: ClassVar[bool] = True
    """Whether it may call a class by its WordNet id."""

    @abstractmethod
    def name(self) -> str:
        """What the teacher is called if the recipe gives it no name."""

    @abstractmethod
    def known(self) -> list[str]:
        """All classes that it knows, in the order of its outputs; needs no weights."""

    @abstractmethod
    def network(self, size: int) -> nn.Module:
        """The classifier of all of them."""

    def unknown(self, class_id: str) -> str:
        """Says that it does not know a class."""
        return f"teacher.weights: {self.cfg.weights} weights of {self.cfg.model.arch} do not know class {class_id!r}"

    def content(self) -> str | None:
        """Digest of what files besides the recipe say of it; None where its name says all."""
        return None

    def normalisation(self) -> tuple[Colour, Colour]:
        """Mean and standard deviation of the images that it was trained with."""
        return MEAN, STD


class _Published(_Source):
    def name(self) -> str:
        return published.find(self.cfg.model.arch).name

    def known(self) -> list[str]:
        published.find(self.cfg.model.arch)
        return list(published.CLASS_ORDER)

    def network(self, size: int) -> nn.Module:
        return published.load(self.cfg.model.arch, size)

    def unknown(self, class_id: str) -> str:
        return super().unknown(class_id) + _HINT

    def normalisation(self) -> tuple[Colour, Colour]:
        found = published.find(self.cfg.model.arch)
        return found.mean, found.std


class _Trained(_Source):
    by_wnid: ClassVar[bool] = False

    def name(self) -> str:
        return networks.name(self.cfg.model)

    def known(self) -> list[str]:
        return list(describe(self.folder)["class_ids"])

    def network(self, size: int) -> nn.Module:
        about = describe(self.folder)
        model = networks.build(Network.model_validate(_without_rate(about["model"])), len(about["class_ids"]), size)
        uri = storage.join(self.folder, WEIGHTS_FILE)
        try:
            model.load_state_dict(safetensors.torch.load(storage.read_bytes(uri)))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(f"{uri}: {first_line(error)}: run `ddps teacher` anew") from error
        return model


class _File(_Source):
    def name(self) -> str:
        file = self.cfg.weights.partition("?")[0].rpartition("/")[2].rpartition(".")[0]
        described = self.cfg.class_order is None and "model" not in self.cfg.model_fields_set
        return file if described else f"{networks.name(self.cfg.model)}.{file}"

    def known(self) -> list[str]:
        self._check()
        if self.cfg.class_order is not None:
            return weight_files.class_order(self.cfg.class_order)
        return list(self._description()["class_ids"])

    def network(self, size: int) -> nn.Module:
        known, model, order = self.known(), self.cfg.model, "teacher.class_order"
        if self.cfg.class_order is None:
            model, order = self._described(), DESCRIPTION_FILE
        wanted = weight_files.Wanted(self.cfg.weights, networks.name(model), len(known), order)
        makers = weight_files.makers(model, len(known), size)
        return weight_files.fitted(makers, weight_files.read(self.cfg.weights), wanted, size)

    def unknown(self, class_id: str) -> str:
        order = self.cfg.class_order or self._beside()
        return f"teacher.class_order: {order} does not name class {class_id!r}, neither by its id nor by its WordNet id"

    def content(self) -> str:
        self._check()
        order = self._beside() if self.cfg.class_order is None else self.cfg.class_order
        files = [self.cfg.weights, *([order] if order != weight_files.IMAGENET else [])]
        try:
            return storage.digest([weight_files.digest(file) for file in files])
        except OSError:
            self.known()  # which says what is missing
            raise

    def _check(self) -> None:
        if not storage.exists(self.cfg.weights):
            raise UserError(
                f"teacher.weights: there is no file {self.cfg.weights}; besides a file it may be published or trained"
            )

    def normalisation(self) -> tuple[Colour, Colour]:
        return self.cfg.mean or MEAN, self.cfg.std or STD

    def _beside(self) -> str:
        return storage.join(weight_files.folder_of(self.cfg.weights), DESCRIPTION_FILE)

    def _description(self) -> dict[str, Any]:
        if not storage.exists(self._beside()):
            raise UserError(
                f"teacher.class_order: must say the order of the outputs of {self.cfg.weights}: a file of class ids or "
                f"WordNet ids, one a line, or {weight_files.IMAGENET}"
            )
        return describe(weight_files.folder_of(self.cfg.weights))

    def _described(self) -> Network:
        """The network that the description names, which one in the recipe must not contradict."""
        found = Network.model_validate(_without_rate(self._description()["model"]))
        if "model" in self.cfg.model_fields_set and networks.name(found) != networks.name(self.cfg.model):
            raise UserError(
                f"teacher.model.arch: {networks.name(self.cfg.model)}, and by {self._beside()} "
                f"{self.cfg.weights} is of a {networks.name(found)}"
            )
        return found


_SOURCES: Mapping[str, type[_Source]] = {"published": _Published, "trained": _Trained}
"""By `teacher.weights`; anything else is a file."""


def _source(cfg: Teacher, folder: str = "") -> _Source:
    return _SOURCES.get(cfg.weights, _File)(cfg, folder)


def name(called: str, cfg: Teacher) -> str:
    """What tables and file names call a teacher.

    Args:
        called: Its name in the recipe; "" if it has none, and goes by its architecture, with the weights' tag.
        cfg: The teacher.

    Raises:
        UserError: No such weights are published.
    """
    return called or _source(cfg).name()


def content(cfg: Teacher) -> str | None:
    """Digest of a teacher's file of weights, and of what says the order of its outputs; None where it has no file.

    Raises:
        UserError: One of them is missing or cannot be read.
    """
    try:
        return _source(cfg).content()
    except OSError as error:
        raise UserError(f"teacher.weights: {cfg.weights} cannot be read: {first_line(error)}") from error


def needed(settings: Evaluate) -> bool:
    """Says whether students learn from a teacher in any of the protocols."""
    return any(protocols.needs_teacher(preset) for preset in settings.protocols)


@contextlib.contextmanager
def named(called: str) -> Iterator[None]:
    """Has an error that names a key of `teacher` name that of `teachers.<called>`, where a teacher has a name."""
    try:
        yield
    except UserError as error:
        if not called:
            raise
        raise UserError(re.sub(r"^teacher\.", f"teachers.{called}.", str(error))) from error


def load(
    cfg: Teacher, folder: str, class_ids: Sequence[str], size: int, wnids: Mapping[str, str] | None = None
) -> nn.Module:
    """Loads the teacher in eval mode, for ImageNet-normalised images, its outputs in the order of `class_ids`.

    Args:
        cfg: Which teacher.
        folder: Where `ddps teacher` saved a trained one; others ignore it.
        class_ids: All classes that it knows, or a subset.
        size: Side in pixels of its input.
        wnids: WordNet ids of classes, by which published weights, and files, may know them.

    Raises:
        UserError: Its weights cannot be had, do not fit, or it does not know a class.
    """
    source = _source(cfg, folder)
    known = check(cfg, folder, class_ids, wnids)
    model = source.network(size).to(memory_format=torch.channels_last)
    if source.normalisation() != (MEAN, STD):
        model = Renormalised(model, *source.normalisation())
    kept = outputs(cfg, known, class_ids, wnids)
    return (model if kept == list(range(len(known))) else HeadSlice(model, kept)).eval()


def outputs(
    cfg: Teacher, known: Sequence[str], class_ids: Sequence[str], wnids: Mapping[str, str] | None = None
) -> list[int]:
    """Returns the number of the output of each class of a teacher that knows `known`, as `check` gives them."""
    places = {called: place for place, called in enumerate(known)}
    return [places[called] for called in _called(cfg, known, class_ids, wnids)]


def check(cfg: Teacher, folder: str, class_ids: Sequence[str], wnids: Mapping[str, str] | None = None) -> list[str]:
    """Returns all classes that the teacher knows, in the order of its outputs, without loading its weights.

    Raises:
        UserError: It does not know one of `class_ids`, or takes two for the same, or there are no weights that suit, or
            the order of a file's outputs is not stated.
    """
    source = _source(cfg, folder)
    known = source.known()
    called = dict(zip(class_ids, _called(cfg, known, class_ids, wnids), strict=True))
    all_known = set(known)
    if unknown := [class_id for class_id in class_ids if called[class_id] not in all_known]:
        raise UserError(source.unknown(unknown[0]))
    for one, count in Counter(called.values()).items():
        if count > 1:
            two = " and ".join(repr(class_id) for class_id in called if called[class_id] == one)
            raise UserError(f"teacher.weights: {cfg.model.arch} knows {two} as one class, {one}")
    return known


def expected_accuracy(cfg: Teacher, all_classes: bool, size: int) -> float | None:
    """The top-1 accuracy that the teacher is known to have, 0..1, or None.

    Args:
        cfg: Which teacher; its own `accuracy` wins.
        all_classes: Whether it is tested on all 1,000 classes of ImageNet-1K, as published accuracies are.
        size: Side in pixels of the images.
    """
    if cfg.accuracy is not None or cfg.weights != "published":
        return cfg.accuracy
    return published.find(cfg.model.arch).accuracy if all_classes and size == published.SIZE else None


def verdict(accuracy: float, images: int, classes: int, expected: float | None) -> str | None:
    """Says why a teacher of this accuracy cannot be used; None if it can, or if the images are too few to tell.

    It is refused if it is no better than half as good again as guessing (of two classes, than 60 %), by the upper end
    of the accuracy's 95 % interval; and if the expected accuracy is outside of that interval and half a point off.

    Args:
        accuracy: Share of the images that it gets right.
        images: Number of the images.
        classes: Number of the classes between which it chooses.
        expected: Accuracy that it is known to have, 0..1; None if it is not known.
    """
    low, high = wilson(accuracy * images, images)
    measured = f"it gets {accuracy:.2%} of {images} validation images right"
    if classes > 1 and high < _guessing(classes):
        return (
            f"{measured}, of {classes} classes, which is near chance. Likely cause: its outputs are in another order "
            "of classes, or its mean and standard deviation are others, or it was hardly trained"
        )
    if expected is not None and abs(accuracy - expected) > _CLOSE and not low <= expected <= high:
        side = "below" if accuracy < expected else "above"
        return (
            f"{measured}, {100 * abs(accuracy - expected):.1f} points {side} the {expected:.2%} that it is known to "
            "have. Likely cause: some of its classes are in another order, its mean and standard deviation are others, "
            "or this is another validation split; if the figure is right, state it as teacher.accuracy"
        )
    return None


def doubt_of_labels(accuracy: float, images: int, classes: int) -> str | None:
    """Says why the labels of a set, or its colours, may be wrong; None if there is no reason to think so.

    They are doubted if the teacher's accuracy on the set may be that of guessing, by the lower end of its 95 %
    interval, and is nearer to guessing than to knowing; few images need not prove more.

    Args:
        accuracy: Share of the set's images that the teacher gets right.
        images: Number of the images.
        classes: Number of the classes between which it chooses.
    """
    low, _ = wilson(accuracy * images, images)
    chance = 1 / max(classes, 1)
    if classes < 2 or low > _guessing(classes) or accuracy > chance + _DOUBTED * (1 - chance):
        return None
    return (
        f"which is near chance, of {classes} classes. Likely cause: its labels number the classes in another order "
        "(name them in that order in `classes`), or its mean and std are others, or its images are ZCA-whitened"
    )


def _guessing(classes: int) -> float:
    """An accuracy that is half as good again as guessing; of two classes, 60 %."""
    chance = 1 / classes
    return min(1.5 * chance, chance + 0.2 * (1 - chance))


def _called(cfg: Teacher, known: Sequence[str], class_ids: Sequence[str], wnids: Mapping[str, str] | None) -> list[str]:
    """What the teacher calls each class: by its WordNet id if it knows that."""
    if wnids is None or not _source(cfg).by_wnid:
        return list(class_ids)
    all_known = set(known)
    return [wnid if (wnid := wnids.get(each)) in all_known and wnid else each for each in class_ids]


def _without_rate(network: dict[str, Any]) -> dict[str, Any]:
    """A network as it was described when networks had a learning rate."""
    return {key: value for key, value in network.items() if key != "lr"}


def save(model: nn.Module, folder: str, network: Network, class_ids: Sequence[str], accuracy: float | None) -> None:
    """Writes the weights as safetensors, and beside them what they are; the description last, as it proves the rest."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    storage.write_bytes(storage.join(folder, WEIGHTS_FILE), safetensors.torch.save(weights))
    about = {"model": network.model_dump(), "class_ids": list(class_ids), "accuracy": accuracy}
    storage.write_json(storage.join(folder, DESCRIPTION_FILE), about)


def describe(folder: str) -> dict[str, Any]:
    """What `save` wrote: model, class_ids and accuracy.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        return dict(json.loads(storage.read_bytes(storage.join(folder, DESCRIPTION_FILE))))
    except (OSError, ValueError) as error:
        raise UserError(f"{storage.join(folder, DESCRIPTION_FILE)}: {error}: run `ddps teacher` anew") from error
