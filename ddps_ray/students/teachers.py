"""The fixed classifier whose soft labels teach the students: published, or trained on the whole training split."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.torch
import timm
import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

from ddps_ray import storage
from ddps_ray.config import Student, Teacher
from ddps_ray.diffusion.noise import generator
from ddps_ray.errors import UserError, first_line
from ddps_ray.students import networks
from ddps_ray.students.augment import MEAN, STD, Augmentation
from ddps_ray.students.data import Pictures
from ddps_ray.students.training import ALONE, Share, epoch_chunks, optimiser, unwrapped, validated_epochs

State = dict[str, Any]
"""Weights, optimiser and number of finished epochs: all that a training needs to go on."""

Save = Callable[[State, float], None]
"""Keeps the state after an epoch, with the loss of that epoch."""

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "teacher.json"

_WEIGHT_DECAY = 0.01
_HINT = (
    ": they go by ImageNet's WordNet ids, which data.classes can give in a third column or, as imagenet-1k, by name; "
    "for other classes set teacher.weights=trained"
)
_TORCHVISION_WEIGHTS = "tv_in1k"


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


def name(cfg: Teacher) -> str:
    """What tables and file names call the teacher; published weights with their tag."""
    return networks.name(cfg.model) if cfg.weights == "trained" else _published(cfg.model.arch)


def load(
    cfg: Teacher, folder: str, class_ids: Sequence[str], size: int, wnids: Mapping[str, str] | None = None
) -> nn.Module:
    """Loads the teacher in eval mode, its outputs in the order of `class_ids`.

    Args:
        cfg: Which teacher.
        folder: Where `ddps teacher` saved a trained one.
        class_ids: All classes that it knows, or a subset.
        size: Side in pixels of its input.
        wnids: WordNet ids of classes, by which published weights know them; the others go by their class ids.

    Raises:
        UserError: Its weights cannot be had, or it does not know a class.
    """
    known = check(cfg, folder, class_ids, wnids)
    model = _trained(folder, size) if cfg.weights == "trained" else _pretrained(_published(cfg.model.arch), size)
    kept = outputs(cfg, known, class_ids, wnids)
    return (model if kept == list(range(len(known))) else HeadSlice(model, kept)).eval()


def outputs(
    cfg: Teacher, known: Sequence[str], class_ids: Sequence[str], wnids: Mapping[str, str] | None = None
) -> list[int]:
    """Returns the number of the output of each class of a teacher that knows `known`, as `check` gives them."""
    return [known.index(called) for called in _called(cfg, class_ids, wnids)]


def check(cfg: Teacher, folder: str, class_ids: Sequence[str], wnids: Mapping[str, str] | None = None) -> list[str]:
    """Returns all classes that the teacher knows, in the order of its outputs, without loading its weights.

    Raises:
        UserError: It does not know one of `class_ids`, or takes two for the same, or there are no weights that suit.
    """
    if cfg.weights == "trained":
        known, hint = list(describe(folder)["class_ids"]), ""
    else:
        _check_published(_published(cfg.model.arch))
        known, hint = list(ImageNetInfo().label_names()), _HINT
    called = dict(zip(class_ids, _called(cfg, class_ids, wnids), strict=True))
    if unknown := [class_id for class_id in class_ids if called[class_id] not in set(known)]:
        raise UserError(
            f"teacher.weights: {cfg.weights} weights of {cfg.model.arch} do not know class {unknown[0]!r}{hint}"
        )
    for wnid, count in Counter(called.values()).items():
        if count > 1:
            two = " and ".join(repr(class_id) for class_id in called if called[class_id] == wnid)
            raise UserError(f"teacher.weights: {cfg.model.arch} knows {two} as one class, {wnid}")
    return known


def _called(cfg: Teacher, class_ids: Sequence[str], wnids: Mapping[str, str] | None) -> list[str]:
    """What the teacher calls each class."""
    if cfg.weights == "trained" or wnids is None:
        return list(class_ids)
    return [wnids.get(class_id, class_id) for class_id in class_ids]


def save(model: nn.Module, folder: str, student: Student, class_ids: Sequence[str], accuracy: float | None) -> None:
    """Writes the weights as safetensors, and beside them what they are; the description last, as it proves the rest."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    storage.write_bytes(storage.join(folder, WEIGHTS_FILE), safetensors.torch.save(weights))
    about = {"model": student.model_dump(), "class_ids": list(class_ids), "accuracy": accuracy}
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


def train(
    model: nn.Module,
    pictures: Pictures,
    cfg: Teacher,
    size: int,
    save_state: Save,
    state: State | None = None,
    share: Share = ALONE,
) -> None:
    """Trains a classifier: AdamW, cosine to zero, random-resized crops and flips, cross-entropy.

    Order and augmentation of an epoch come from (seed, epoch), so a training that goes on from a saved state ends
    where an unbroken one would.

    Args:
        model: On its device; wrapped for distributed training if there are several workers.
        pictures: The training images.
        cfg: Epochs, batch, learning rate, crops, seed.
        size: Side in pixels of its input.
        save_state: Called about twenty times, and after the last epoch.
        state: What it was last called with, to go on from there.
        share: This worker's part.
    """
    adam = optimiser(model, cfg.lr, _WEIGHT_DECAY)
    done = _restore(model, adam, state) if state else 0
    due = validated_epochs(cfg.epochs)
    for epoch in range(done, cfg.epochs):
        loss = _epoch(model, adam, pictures, cfg, size, epoch, share)
        if epoch + 1 in due:
            save_state({"model": unwrapped(model).state_dict(), "adam": adam.state_dict(), "epochs": epoch + 1}, loss)


def _epoch(
    model: nn.Module,
    adam: torch.optim.AdamW,
    pictures: Pictures,
    cfg: Teacher,
    size: int,
    epoch: int,
    share: Share,
) -> float:
    device = next(model.parameters()).device
    transform = Augmentation(size, cfg.crop_scale)
    draws = generator(cfg.seed, f"epoch={epoch}/rank={share.rank}", "augmentation")
    chunks = epoch_chunks(len(pictures), cfg.batch, cfg.seed, epoch, share)
    losses = []
    model.train()
    for step, (images_NCHW, labels_N) in enumerate(pictures.batches(chunks)):
        for group in adam.param_groups:
            group["lr"] = cfg.lr * cosine((epoch + step / len(chunks)) / cfg.epochs)
        loss = F.cross_entropy(model(transform(images_NCHW.to(device), draws)), labels_N.to(device))
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def cosine(progress: float) -> float:
    """Factor of the teacher's learning rate: 1 at progress 0, 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _restore(model: nn.Module, adam: torch.optim.AdamW, state: State) -> int:
    unwrapped(model).load_state_dict(state["model"])
    adam.load_state_dict(state["adam"])
    return int(state["epochs"])


def _trained(folder: str, size: int) -> nn.Module:
    about = describe(folder)
    model = networks.build(Student.model_validate(about["model"]), len(about["class_ids"]), size)
    uri = storage.join(folder, WEIGHTS_FILE)
    try:
        model.load_state_dict(safetensors.torch.load(storage.read_bytes(uri)))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"{uri}: {first_line(error)}: run `ddps teacher` anew") from error
    return model


def _pretrained(published: str, size: int) -> nn.Module:
    try:
        return networks.from_timm(published, len(ImageNetInfo().label_names()), size, pretrained=True)
    except (OSError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"teacher.model.arch: cannot fetch the weights of {published}: {reason}") from error


def _check_published(published: str) -> None:
    if not timm.is_model_pretrained(published):
        raise UserError(
            f"teacher.model.arch: timm has no weights of {published!r}: train it (teacher.weights: trained)"
        )
    config = timm.get_pretrained_cfg(published)
    if (config.mean, config.std, config.num_classes) != (MEAN, STD, len(ImageNetInfo().label_names())):
        raise UserError(f"teacher.model.arch: {published} has not ImageNet-1K's classes, mean and standard deviation")


def _published(arch: str) -> str:
    """The name with the tag of its weights: torchvision's, which RDED uses, where timm has them and no tag is given."""
    tagged = f"{arch}.{_TORCHVISION_WEIGHTS}"
    return tagged if "." not in arch and timm.is_model_pretrained(tagged) else arch
