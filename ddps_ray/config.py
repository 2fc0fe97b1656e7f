"""One frozen, strict Recipe for a run: read from a YAML file, overridden key by key, checked before any work starts."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ddps_ray import mistakes, storage, uris, yaml_values
from ddps_ray.errors import UserError
from ddps_ray.yaml_values import Values

_SECRET = re.compile(r"(\w+)://[^/?@]*:(?!\d*(/|\?|$))")
"""A colon before the path that is not that of a port: S3's clients take a secret there."""

PUBLISHED_OR_TRAINED = ("published", "trained")
"""What `teacher.weights` may be besides a file."""

_LEAST_OF_A_GPU = 0.01

_JOB_FOLDER = "working_dir_files"
"""Where Ray puts a copy of a submitted job's folder, and starts the job."""


def place(uri: str) -> str:
    """Makes a local path absolute; leaves a URI as it is.

    Raises:
        UserError: It holds a secret, or cannot be meant as it is written.
    """
    if found := _SECRET.match(uri):
        raise UserError(
            f"{found[1]}://…: a URI is written into every row, so that no secret belongs in it; give it as "
            "AWS_SECRET_ACCESS_KEY, or as the store's own files of every node have it"
        )
    return storage.absolute(uri)


def lasting(uri: str) -> str:
    """Makes a local path absolute, as `place` does, but refuses a relative one in a submitted job.

    Raises:
        UserError: It would be in the job's own folder, or holds a secret.
    """
    relative = not uris.is_uri(uri) and not storage.expanded(uri).is_absolute()
    if relative and _JOB_FOLDER in Path.cwd().parts:
        raise UserError(
            f"{uri}: a relative path in a submitted job is in the job's own folder, which other nodes do not see and "
            "which is thrown away: give a URI, or an absolute path that every node sees"
        )
    return place(uri)


def _run_dir(uri: str) -> str:
    made = lasting(uri)
    if "?" in (uris.parse(made).path if uris.is_uri(made) else made):
        raise UserError("Ray looks for the ending of a file's name before a ?, so that none may be in it")
    return made


def _checked_by(work: Callable[[str], str]) -> AfterValidator:
    """Makes of a UserError one of pydantic's, which knows the key."""

    def check(value: str) -> str:
        try:
            return work(value)
        except UserError as error:
            raise ValueError(str(error)) from error

    return AfterValidator(check)


def _folder_or_name(path: str) -> str:
    return place(path) if uris.is_uri(path) or storage.expanded(path).is_dir() else path


def _weights(name: str) -> str:
    meant = "published" if name == "timm" else name
    return meant if meant in PUBLISHED_OR_TRAINED else place(meant)


Place = Annotated[str, _checked_by(place)]
"""A local path or a URI; a relative path is made absolute, since workers run in other folders."""
Lasting = Annotated[str, _checked_by(lasting)]
"""A place that outlives a job."""
Names = Annotated[str, _checked_by(lambda name: name if name == "imagenet-1k" else place(name))]
"""A table of class names: a place, or the packaged one."""


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # which is a number to Python, so that `pairs: yes` would be one pair
        raise ValueError("must be a number, not true or false")
    return value


Int = Annotated[int, BeforeValidator(_number)]
PositiveInt = Annotated[Int, Field(gt=0)]
Seed = Annotated[Int, Field(ge=0, lt=2**31)]
"""What a column of 32 bits holds, as that of `schemas.EVALUATION`."""
Float = Annotated[float, BeforeValidator(_number)]
PositiveFloat = Annotated[Float, Field(gt=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]


def _part_of_a_gpu(share: float) -> float:
    if not _LEAST_OF_A_GPU <= share <= 1:
        several = "; several GPUs are `workers`, one for each" if share > 1 else ""
        raise ValueError(f"{share:g} is no share of one GPU, from {_LEAST_OF_A_GPU} to 1{several}")
    return share


GpuShare = Annotated[Float, AfterValidator(_part_of_a_gpu)]
"""Which part of one GPU a training takes."""

Decay = Annotated[Float, Field(ge=0, lt=1)]
"""Of a running mean: at 1 it would stay what it was."""


def _ascending(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError("must be two shares with 0 < least <= most")
    return scale


Scale = Annotated[tuple[Fraction, Fraction], AfterValidator(_ascending)]
"""Least and most, as shares of one; neither is 0."""


def _check_share(gpus: float, workers: int) -> None:
    if gpus < 1 and workers > 1:
        raise ValueError(
            f"gpus ({gpus:g}) below 1 is for a training of one worker, not of {workers}, of which no two can talk "
            "to each other on one GPU"
        )


Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Field(min_length=1)]
"""At least one."""


class Section(BaseModel):
    """A part of the recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Data(Section):
    """The data set, and how `index` lists it."""

    root: Lasting
    """Folder or URI of the data set."""
    layout: Literal[
        "auto",
        "imagefolder",
        "imagenet",
        "huggingface",
        "webdataset",
        "tiny-imagenet",
        "cifar10",
        "cifar100",
        "packed",
    ] = "auto"
    """How it lies there; `auto` looks. `imagefolder`: `<split>/<class>/<image>`; `imagenet`: as ILSVRC's archives
    unpack; `huggingface`: Parquet files of images and labels; `webdataset`: tar shards of images and labels;
    `tiny-imagenet`, `cifar10`, `cifar100`: as published (CIFAR in binary); `packed`: what `ddps pack` wrote."""
    train: str = "train"
    """Split that is scored and distilled."""
    val: str | None = "val"
    """Split on which students are tested; null where there is none."""
    classes: Names | None = None
    """Table of a line a class: class id, class name and, if there is one, WordNet id, with a header or without; where
    the data set numbers its classes and does not name them, in the order of the numbers. `imagenet-1k` is that table
    for ImageNet-1K, whose classes may also be called by their names. By default a wnid gets its ImageNet name, and any
    other class the data set's own name for it."""
    class_folders: Literal["top", "leaf"] = "top"
    """Which folders of an `imagefolder` split are classes: those at its top, or each that directly holds images, such
    as `a/apartment_building/outdoor` in Places365."""
    image_column: str | None = None
    """Column of the images in the Parquet files of `huggingface`, or ending of the images in `webdataset`; by default
    the only one that can be it."""
    label_column: str | None = None
    """Column of the labels in the Parquet files of `huggingface`, or their key in the `.json` of `webdataset`; by
    default `label`, or the only one that can be it."""
    ground_truth: Place | None = None
    """For `imagenet`: file of the classes of the flat validation split (Kaggle's LOC_val_solution.csv, a wnid a line,
    or the development kit's numbers with meta.mat beside them); by default looked for in the root."""
    per_class: PositiveInt | None = None
    """Train on a random subset of so many images a class (paper, Fig. 6); null takes all."""
    seed: Seed = 0
    """Seed of that subset."""

    @model_validator(mode="after")
    def _two_splits(self) -> Self:
        if self.val == self.train:
            raise ValueError(f"val must be another split than train ({self.train!r}), or null")
        return self


class Model(Section):
    """The Stable Diffusion checkpoint that judges."""

    path: Annotated[str, _checked_by(_folder_or_name)]
    """Folder in the diffusers layout (unet, vae, text_encoder, tokenizer, scheduler), or a Hub name; `pretrained` means
    what `ddps pretrain` made in this run directory, `quickstart` the small model that comes with the package."""
    revision: str | None = None
    """Commit of a Hub model."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of U-Net and VAE; errors and their means are float32 always."""


class Score(Section):
    """Stage I: where an image is most typical of its class (paper, section 3.2)."""

    RUNTIME: ClassVar[frozenset[str]] = frozenset(
        {"batch", "micro_batch", "rows_per_shard", "actors", "gpus", "max_error_fraction", "judge"}
    )
    """Fields that change how fast a score comes, not what it is."""

    size: PositiveInt = 256
    """Pixels of the image's shorter edge when it is scored."""
    patch: PositiveInt | Literal["full"] = 224
    """Side of a patch in pixels of the scaled image; `full` takes the whole image (CIFAR, Tiny ImageNet)."""
    max_aspect: PositiveFloat = 8.0
    """An image whose long edge is more than this many short edges goes to quarantine."""
    pairs: PositiveInt = 10
    """N: pairs of noise and time step for each image, the same for both prompts."""
    timesteps: tuple[Int, Int] = (100, 700)
    """Time steps are drawn from [first, second)."""
    prompt: str = "An image of {}"
    """Prompt c; {} is the class name."""
    null_prompt: str = "An image of ."
    """Prompt ∅."""
    dift_timestep: Int = Field(default=161, ge=0, lt=1000)
    """Time step of the diffusion feature."""
    dift_block: Int = Field(default=1, ge=0)
    """U-Net up-block that gives the diffusion feature."""
    dift_input: Literal["patch", "image"] = "patch"
    """Embed the cropped patch by itself, or crop the feature map of the whole image."""
    store_map: bool = True
    """Keep the typicality map of each image."""
    store_terms: bool = False
    """Keep the N maps and time steps that the map is the mean of."""
    batch: PositiveInt = 16
    """Images an actor takes at a time."""
    micro_batch: PositiveInt = 64
    """Latents in one call of the U-Net."""
    rows_per_shard: PositiveInt | None = None
    """Images in one committed file: what a kill can cost an actor. By default about five minutes of its work, as the
    check of the judge has measured it."""
    max_error_fraction: Fraction = 0.05
    """Share of the images that may fail; above it the job ends with an error."""
    judge: Literal["stop", "warn", "skip"] = "stop"
    """What is done about a model that, on about a hundred images, does not prefer an image's own class to another:
    `stop` ends the job before anything is scored, `warn` says it and goes on, `skip` does not try."""
    actors: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Scoring actors, fixed or (least, most); by default one a GPU, or one on a machine without GPUs."""
    gpus: Float | None = Field(default=None, ge=0)
    """GPUs an actor; by default 1 if the cluster has any, else 0."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        first, second = self.timesteps
        if not 0 <= first < second <= 1000:
            raise ValueError("timesteps must be two numbers with 0 <= first < second <= 1000")
        if self.prompt.count("{}") != 1:
            raise ValueError("prompt must contain {} once, where the class name goes")
        if not isinstance(self.actors, int | None) and self.actors[0] > self.actors[1]:
            raise ValueError("actors must be one number, or two with least <= most")
        if self.patch != "full" and self.patch > self.size:
            raise ValueError(f"patch ({self.patch}) must not be larger than size ({self.size})")
        return self


class DistilledSet(Section):
    """One distilled set: how to select, from which classes, at which sizes."""

    selector: Literal["ddps", "random"] = "ddps"
    """`ddps`: Stage II of the paper; `random`: random patches of random images, same budget and composition."""
    ipc: Several[PositiveInt] = (10,)
    """Images per class."""
    classes: Several[str] | None = None
    """Class ids of a subset; null takes all."""
    composition: Literal["auto", "mosaic", "single"] = "auto"
    """Whether an image is a mosaic of four patches, or one patch; `auto` goes by `distill.mosaic_up_to`,
    and makes no mosaics of whole images (`score.patch: full`)."""
    seed: Seed = 0
    """Seed of k-means, or of the random choice."""


def check_name(name: str) -> None:
    """Sees to it that a name can be that of a folder.

    Raises:
        ValueError: It cannot.
    """
    if not re.fullmatch(r"[\w-]{1,64}", name):
        raise ValueError(f"name {name!r} may have letters, digits, - and _ only, 64 of them at most")


class Distill(Section):
    """Stage II: which patches make the set (paper, sections 3.3 and 3.4)."""

    sets: dict[str, DistilledSet] = {"ddps": DistilledSet()}
    """The sets by name; all come from the same scores."""
    clusters: PositiveInt = 32
    """M: k-means centres a class."""
    top_clusters: PositiveInt = 10
    """N: clusters from which patches are taken."""
    mosaic_up_to: Int = Field(default=10, ge=0)
    """Largest IPC at which an image is a mosaic of four patches."""
    size: PositiveInt = 224
    """Side in pixels of a distilled image."""
    format: Literal["png", "jpg"] = "png"
    """File format of a distilled image."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.size % 2:
            raise ValueError("size must be even, to hold a mosaic of two by two")
        for name in self.sets:
            check_name(name)
        return self


class Network(Section):
    """A network's architecture."""

    arch: str
    """`convnet<d>` (d blocks of 3×3 convolution, BatchNorm, ReLU, pooling), `resnet18_small`, `resnet50_small` or
    `resnet101_small` (RDED's "modified", for at most 64 px), one of torchvision's classifiers (`resnet18`,
    `mobilenet_v2`, `swin_v2_t`, `vit_b_16` …), or one of timm's."""
    width: PositiveInt = 128
    """Channels of a ConvNet; other networks ignore it."""


class Student(Network):
    """A network trained on a set."""

    lr: PositiveFloat | None = None
    """Learning rate; by default the protocol's for the architecture."""


class Teacher(Section):
    """A fixed classifier whose soft labels teach the students."""

    model: Network = Network(arch="resnet18")
    """Its architecture."""
    weights: Annotated[str, _checked_by(_weights)] = "published"
    """`published` (or `timm`): ImageNet-1K weights that torchvision or timm publish, torchvision's unless a tag after
    the architecture says otherwise (`resnet50.a1_in1k`, `resnet50.IMAGENET1K_V2`); `trained`: `ddps teacher` trains it
    on the training split; or a file of weights, safetensors or a torchvision-style state dict, at a path or URI."""
    class_order: Names | None = None
    """For a file: the class ids, or WordNet ids, in the order of its outputs, one a line; `imagenet-1k` is ImageNet's
    order. Not needed beside a teacher that `ddps teacher` has saved."""
    scope: Literal["all", "set"] = "all"
    """Of a trained one: `all` learns every class, and its head is sliced to the classes of a set; `set` is trained on
    the classes of each set alone, as RDED's teachers of subsets are."""
    accuracy: Fraction | None = None
    """Accuracy, 0 to 1, that it is known to have on the classes that are tested; published weights have theirs on all
    of ImageNet-1K. One that is half a point off is not used."""
    mean: tuple[Fraction, Fraction, Fraction] | None = None
    """For a file: mean of red, green and blue that it was trained with; by default ImageNet's."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """For a file: their standard deviation; by default ImageNet's."""
    epochs: PositiveInt = 60
    """Epochs of a training."""
    batch: PositiveInt = 128
    """Its batch size."""
    lr: PositiveFloat = 1e-3
    """Its peak learning rate (AdamW, cosine to zero)."""
    crop_scale: Scale = (0.25, 1.0)
    """Area of its random crops, so that it knows patches too."""
    seed: Seed = 0
    """Seed of its initial weights and batches."""
    workers: PositiveInt = 1
    """Ray Train workers."""
    gpus: GpuShare = 1.0
    """Share of a GPU that its training takes, if that is of one worker; another job may take the rest."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_share(self.gpus, self.workers)
        for key in ("class_order", "mean", "std"):
            if self.weights in PUBLISHED_OR_TRAINED and getattr(self, key) is not None:
                raise ValueError(f"{key} is for a file of weights; published and trained ones know theirs")
        if self.scope == "set" and self.weights != "trained":
            raise ValueError("scope `set` is for a teacher that is trained; others know the classes that they know")
        return self


class ForeignSet(Section):
    """A distilled set that another program has made."""

    path: Place
    """An ImageFolder (`<path>/<class>/*.png`, or below a folder `train`), Parquet files (`image` with `label` or
    `class_id`), or tensors (a `.pt` file, or a folder with `images_best.pt` and `labels_best.pt`)."""
    format: Literal["auto", "imagefolder", "parquet", "tensors"] = "auto"
    """Which of them; `auto` looks."""
    classes: Several[str] | Names | None = None
    """Its classes, as class ids or WordNet ids, in the order of its labels; or a file of them, one a line; or
    `imagenet-1k`. By default names are class ids or WordNet ids, and numbers are the data set's own labels, which are
    places among its sorted class ids where it does not number them itself."""
    mosaic: bool = False
    """Whether its images are mosaics of two by two, to be shuffled and cropped as such."""
    images: str | None = None
    """Of tensors: key of the images in the file, or the file of them in the folder, where it is none of the usual ones;
    of Parquet files: their column."""
    labels: str | None = None
    """Of tensors: key of the labels, or the file of them beside the images; of Parquet files: their column."""
    mean: tuple[Float, Float, Float] | None = None
    """Of tensors: mean that was subtracted from values in 0..1; must be given, 0 where none was."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Of tensors: standard deviation by which they were divided, 1 where none was."""
    soft_labels: Literal["none", "logits", "probabilities"] = "none"
    """Of tensors: whether the labels are soft ones, and of which kind; the protocol `given` learns from them."""


class Labels(Section):
    """Soft labels that `ddps relabel` stores, so that students are trained without the teacher."""

    logits: Literal["float16"] = "float16"
    """How a teacher's logits are stored."""
    top: PositiveInt | None = None
    """Logits kept of each image, the highest, with their classes: the others share one logit, at which the kept classes
    have the probabilities that the teacher gives them. null keeps all."""


class Evaluate(Section):
    """Training of students on distilled sets, in a grid of sets, teachers, students, protocols and seeds."""

    size: PositiveInt = 224
    """Side in pixels of what teacher and students see."""
    students: Several[Student] = (Student(arch="resnet18"),)
    """Networks to train from scratch."""
    sets: Several[str] | None = None
    """Names of sets, distilled and foreign; null takes all."""
    foreign: dict[str, ForeignSet] = {}
    """Sets that other programs have made, by name."""
    whole: bool = False
    """Train on the whole training split, too, as a set called `whole`: what all distillation is measured against."""
    ipc: Several[PositiveInt] | None = None
    """IPCs to evaluate; null takes all that the sets have."""
    seeds: Several[Seed] = (0, 1, 2, 3, 4)
    """One student for each."""
    protocols: Several[Literal["rded", "fkd", "edc", "minimax", "hard", "given"]] = ("rded",)
    """How students are trained: presets, of which the settings below, up to `ema`, change a part."""
    epochs: PositiveInt | None = None
    """Passes over the set."""
    batch: PositiveInt | None = None
    """Batch size; never more than the set has."""
    temperature: PositiveFloat | None = None
    """Softmax temperature of both sides of the KL divergence."""
    weight_decay: Float | None = Field(default=None, ge=0)
    """Weight decay."""
    cutmix: bool | None = None
    """Mix every batch with CutMix, λ ~ Beta(1, 1)."""
    crop_scale: Scale | None = None
    """Area of the random crops, least and most, as a share of the image."""
    ema: Decay | None = None
    """Decay of a running mean of the weights, which is what is tested; 0 for none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of teacher and student; losses are float32 always. `auto` takes bfloat16 on a GPU that has it."""
    labels: Labels | None = None
    """`{logits: float16}` or `{top: 10}`: students learn from the labels that `ddps relabel` has stored; null asks the
    teacher as they learn."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Time between the states from which a training goes on."""
    workers: PositiveInt = 1
    """Ray Train workers a student."""
    gpus: GpuShare = 1.0
    """Share of a GPU that a student of one worker takes: with 0.25, four small ones share one, each with a quarter of
    its memory at most. Without GPUs it changes nothing."""
    tensorboard: bool = True
    """Whether a training writes its loss, learning rate and accuracy to `tensorboard/`, for TensorBoard."""
    together: PositiveInt | None = None
    """Students trained at the same time; by default as many as the cluster has room for when the stage begins."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_share(self.gpus, self.workers)
        for name in self.foreign:
            check_name(name)
        return self


class Pretrain(Section):
    """Training of a small latent diffusion model, for data that Stable Diffusion does not know."""

    size: PositiveInt = 64
    """Side in pixels of the square training images."""
    latent_channels: PositiveInt = 4
    """Channels of a latent."""
    latent_std: PositiveFloat = 2.0
    """Standard deviation of a scaled latent. A small picture has fewer positions to show a thing with, so that at the
    same time step noise hides more of it than of a large one; latents above 1 make up for that."""
    vae_channels: tuple[PositiveInt, ...] = (8, 16, 32)
    """Channels of the VAE's levels; each level after the first halves the side."""
    unet_channels: tuple[PositiveInt, ...] = (32, 64, 96)
    """Channels of the U-Net's levels; the last one has the cross-attention."""
    text_width: PositiveInt = 64
    """Width of the CLIP text encoder."""
    text_layers: PositiveInt = 2
    """Its layers."""
    vae_steps: PositiveInt = 1000
    """Training steps of the VAE."""
    unet_steps: PositiveInt = 5000
    """Training steps of the U-Net and the text encoder."""
    vae_batch: PositiveInt = 16
    """Images in a step of the VAE."""
    unet_batch: PositiveInt = 16
    """Latents in a step of the U-Net."""
    vae_lr: PositiveFloat = 2e-3
    """Peak learning rate of the VAE."""
    unet_lr: PositiveFloat = 1e-3
    """Peak learning rate of the U-Net (AdamW, warm-up, cosine)."""
    null_fraction: Fraction = 0.3
    """Share of the training in which the class is dropped from the prompt."""
    focus: Fraction = 0.9
    """Share of the training at time steps of `score.timesteps`, where the model will be asked; the rest is at all."""
    ema: Fraction = 0.999
    """Decay of the running mean of the weights that is kept in the end."""
    flip: bool = True
    """Mirror half of the images."""
    checkpoint_every: PositiveInt = 250
    """Steps between checkpoints."""
    seed: Seed = 0
    """Seed of weights, noise and batches."""
    workers: PositiveInt = 1
    """Ray Train workers."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for key in ("vae_channels", "unet_channels"):
            if any(channels % 8 for channels in getattr(self, key)):
                raise ValueError(f"{key} must be multiples of 8, for the group normalisation")
        if self.text_width % 8:
            raise ValueError("text_width must be a multiple of 8, for the attention heads")
        halvings = len(self.vae_channels) + len(self.unet_channels) - 2
        if self.size % 2**halvings:
            raise ValueError(f"size ({self.size}) must be a multiple of {2**halvings}: it is halved {halvings} times")
        return self


class Report(Section):
    """The HTML page."""

    title: str = "Distilled by diffusion-driven patch selection"
    """Its heading."""
    boxes: Place | None = None
    """CSV with image_id, left, top, right, bottom (right and bottom exclusive, in pixels of the original): true object
    boxes, against which the chosen patches are measured; null takes those that the data set came with, if any."""
    classes: PositiveInt = 10
    """Classes shown in full."""


WHOLE = "whole"
"""What the whole training split is called among the sets."""


class Recipe(Section):
    """All settings of a run."""

    run_dir: Annotated[str, _checked_by(_run_dir)]
    """Folder or URI that the run's files go to."""
    seed: Seed = 0
    """Seed of the noise and time steps of scoring, with each image's id."""
    address: str | None = None
    """Address of a Ray cluster; null joins the one this job was submitted to, or starts Ray on this machine."""
    train_on_gpus: bool | None = None
    """Whether pretrain, teacher and evaluate ask for a GPU a worker; by default if the cluster has any then. True
    where GPUs come only when they are asked for."""
    data: Data
    model: Model
    score: Score = Score()
    distill: Distill = Distill()
    teacher: Teacher = Teacher()
    """The teacher of all students, unless there are several."""
    teachers: dict[str, Teacher] = {}
    """Several teachers by name: each teaches every student, in place of `teacher`."""
    evaluate: Evaluate = Evaluate()
    pretrain: Pretrain = Pretrain()
    report: Report = Report()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        own, foreign = self.distill.sets, self.evaluate.foreign
        for name in self.evaluate.sets or ():
            if name not in own and name not in foreign:
                raise ValueError(
                    f"evaluate.sets names {name!r}, which is neither in distill.sets nor in evaluate.foreign"
                )
        for name in foreign:
            if name in own or name == WHOLE:
                raise ValueError(f"evaluate.foreign.{name}: one of our own sets is called so, too")
        if WHOLE in own:
            raise ValueError(
                f"distill.sets.{WHOLE}: the whole training split is called so in tables: take another name"
            )
        for name in self.teachers:
            check_name(name)
        return self

    @property
    def all_teachers(self) -> dict[str, Teacher]:
        """The teachers by name; the only one has the name ""."""
        return self.teachers or {"": self.teacher}


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe.

    Args:
        path: YAML file.
        overrides: `section.key=value` strings, values in YAML; they win over the file.

    Raises:
        UserError: The file cannot be read, or a key is unknown or its value impossible; the message names it.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: it is not UTF-8 text") from error
    values = yaml_values.read(text, str(path))
    for override in overrides or []:
        yaml_values.override(values, override)
    return _checked(values)


def parse(values: dict[str, Any], source: str) -> Recipe:
    """Checks a recipe given as plain values; `source` names it in an error."""
    return _checked(Values(values, source))


def _checked(values: Values) -> Recipe:
    try:
        return Recipe.model_validate(values.plain)
    except ValidationError as error:
        raise mistakes.as_user_error(error, Recipe, values) from error
