"""How a student is trained: named presets, each with its source, and the one set of settings that comes of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ddps_ray.config import Evaluate, Student
from ddps_ray.students import networks
from ddps_ray.students.losses import TEMPERED

SMALL = 64
"""Side in pixels up to which the rules of CIFAR and Tiny ImageNet hold."""


@dataclass(frozen=True)
class Facts:
    """What the rules of a protocol go by.

    Attributes:
        ipc: Images per class.
        classes: Number of classes.
        images: Images of the set.
        mosaic: Whether they are mosaics.
        size: Side in pixels of what the networks see.
        layout: Layout of the data set, e.g. `cifar100`; rules of a data set go by it.
        teacher: Architecture of the teacher; None if there is none.
    """

    ipc: int
    classes: int
    images: int
    mosaic: bool
    size: int
    layout: str
    teacher: str | None


@dataclass(frozen=True)
class Protocol:
    """The settings of one training; all of them are in its row.

    Attributes:
        name: Of the preset.
        epochs: Passes over the set.
        batch: Images in a step, over all workers.
        optimiser: `adamw`, or `sgd` with momentum 0.9.
        lr: Learning rate at the beginning.
        weight_decay: Of the optimiser.
        decay_all: Whether biases and norms decay too, and not only weights of more than one dimension.
        schedule: Key of `schedules.SCHEDULES`.
        loss: Key of `losses.LOSSES`.
        temperature: Of both softmaxes; 1 where the loss has none, so that the recipe's changes nothing there.
        cutmix: Mix every batch.
        crop_scale: Area of the random crops, least and most.
        shuffle: Shuffle the 2×2 mosaic.
        colour: Change brightness, contrast, saturation and lighting.
        ema: Decay of a running mean of the weights, which is what is tested; 0 for none.
        validations: Numbers of finished epochs after which the student is tested, ascending; the last one is `epochs`.
    """

    name: str
    epochs: int
    batch: int
    optimiser: str
    lr: float
    weight_decay: float
    decay_all: bool
    schedule: str
    loss: str
    temperature: float
    cutmix: bool
    crop_scale: tuple[float, float]
    shuffle: bool
    colour: bool
    ema: float
    validations: tuple[int, ...]

    @property
    def teacher(self) -> bool:
        """Whether it needs a teacher."""
        return self.loss in ("kl", "mse")


def rded_batch(facts: Facts) -> int:
    """RDED's batch size: 10, 50, 100 for few classes, 20, 100, 200 for 100 and more, at IPC from 1, 10, 50 on."""
    if facts.layout == "tiny-imagenet":
        return 100
    small, middle, large = (10, 50, 100) if facts.classes < 100 else (20, 100, 200)
    if facts.ipc < 10:
        return small
    return middle if facts.ipc < 50 else large


_RDED_RATES = {
    "alexnet": 1e-4,
    "deit": 1e-4,
    "efficientnet_b0": 2e-3,
    "mobilenet_v2": 2.5e-3,
    "swin": 1e-4,
    "vgg11": 5e-4,
    "vit": 1e-4,
}


def rded_rate(student: Student) -> float:
    """RDED's learning rate for an architecture."""
    arch = networks.canonical(student.arch)
    return next((rate for prefix, rate in _RDED_RATES.items() if arch.startswith(prefix)), 1e-3)


def last_fifth(epochs: int) -> tuple[int, ...]:
    """RDED's validations: every tenth epoch of the last fifth, and the last one; six of 300."""
    return (*(done for done in range(10, epochs, 10) if done - 1 > 0.8 * epochs), epochs)


def minimax_epochs(facts: Facts) -> int:
    """Minimax's number of epochs for ImageNet's subsets: fewer for larger sets, and two thirds for just 100 classes."""
    bounds = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
    epochs = next((epochs for most, epochs in bounds if facts.ipc <= most), 300)
    return epochs * 2 // 3 // 100 * 100 if facts.classes == 100 else epochs


def crop_scale(facts: Facts) -> tuple[float, float]:
    """Area of the crops: at least half of a mosaic, and of a single patch above 64 px; all of a smaller image."""
    return (0.5, 1.0) if facts.mosaic or facts.size > SMALL else (1.0, 1.0)


def _rded(facts: Facts, student: Student) -> Protocol:
    return Protocol(
        name="rded",
        epochs=300,
        batch=rded_batch(facts),
        optimiser="adamw",
        lr=rded_rate(student),
        weight_decay=0.01,
        decay_all=False,
        schedule="half-cosine",
        loss="kl",
        temperature=20.0,
        cutmix=True,
        crop_scale=crop_scale(facts),
        shuffle=facts.mosaic,
        colour=False,
        ema=0.0,
        validations=(),
    )


def rded(facts: Facts, student: Student) -> Protocol:
    """RDED's published code (CVPR 2024), which the paper follows; CIFAR-100 with ConvNet-3 has a rule of its own."""
    made = _rded(facts, student)
    if facts.layout == "cifar100" and (student.arch, facts.teacher) == ("convnet3", "convnet3"):
        return replace(made, batch=25, lr=2e-3)
    return made


def fkd(facts: Facts, student: Student) -> Protocol:
    """SRe2L's and CDA's: FKD's crops of any area, batches of 1024, a cosine to zero."""
    batch, lr = 1024, 1e-3
    return replace(
        _rded(facts, student), name="fkd", batch=batch, lr=lr, schedule="cosine", crop_scale=(0.08, 1.0), shuffle=False
    )


def edc(facts: Facts, student: Student) -> Protocol:
    """EDC's (NeurIPS 2024): logits by squared error with a little cross-entropy, a running mean of the weights."""
    made = replace(_rded(facts, student), name="edc", batch=100, lr=1e-3, loss="mse", ema=0.99)
    return replace(made, crop_scale=(0.5, 1.0))


def minimax(facts: Facts, student: Student) -> Protocol:
    """Minimax's (CVPR 2024): hard labels, SGD in steps, changes of colour, no teacher; others above 100 classes."""
    batch, lr, weight_decay = (64, 0.01, 5e-4) if facts.classes <= 100 else (128, 0.1, 1e-4)
    return replace(
        _rded(facts, student),
        name="minimax",
        epochs=minimax_epochs(facts),
        batch=batch,
        optimiser="sgd",
        lr=lr,
        weight_decay=weight_decay,
        decay_all=True,
        schedule="steps",
        loss="ce",
        crop_scale=(0.5, 1.0),
        shuffle=False,
        colour=True,
    )


def hard(facts: Facts, student: Student) -> Protocol:
    """Hard labels and no teacher: cross-entropy, AdamW, batches of 128, a cosine to zero."""
    made = replace(_rded(facts, student), name="hard", batch=128, lr=1e-3, schedule="cosine", loss="ce")
    return replace(made, cutmix=False)


def given(facts: Facts, student: Student) -> Protocol:
    """As `hard`, but with the soft labels that a set of another program brings along."""
    return replace(hard(facts, student), name="given", loss="given-ce")


PRESETS: Mapping[str, Callable[[Facts, Student], Protocol]] = {
    "rded": rded,
    "fkd": fkd,
    "edc": edc,
    "minimax": minimax,
    "hard": hard,
    "given": given,
}
"""By the name in the recipe; each says where it comes from."""


_ANY = Facts(ipc=10, classes=10, images=100, mosaic=False, size=224, layout="imagefolder", teacher=None)
"""A preset's loss is the same for all."""


def needs_teacher(preset: str) -> bool:
    """Whether students are trained with a teacher's soft labels."""
    return PRESETS[preset](_ANY, Student(arch="resnet18")).teacher


def needs_soft_labels(preset: str) -> bool:
    """Whether students are trained with soft labels that the set itself gives."""
    return preset == "given"


_OVERRIDES = ("epochs", "batch", "temperature", "weight_decay", "cutmix", "crop_scale", "ema")


def resolve(preset: str, settings: Evaluate, facts: Facts, student: Student) -> Protocol:
    """Returns a preset's settings for a set and a student, with what the recipe changes of them.

    The batch is never larger than the set; the student's own learning rate wins.
    """
    made = PRESETS[preset](facts, student)
    changes: dict[str, Any] = {name: getattr(settings, name) for name in _OVERRIDES}
    made = replace(made, **{name: value for name, value in changes.items() if value is not None})
    return replace(
        made,
        batch=min(made.batch, facts.images),
        lr=made.lr if student.lr is None else student.lr,
        temperature=made.temperature if made.loss in TEMPERED else 1.0,
        validations=last_fifth(made.epochs),
    )
