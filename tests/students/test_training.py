"""The training loop, beside a plain one; where it goes on; and that a student learns from soft labels alone."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as F

from ddps_ray.config import Student
from ddps_ray.diffusion.noise import generator
from ddps_ray.errors import UserError
from ddps_ray.students import augment, networks, syncing, training
from ddps_ray.students.data import Pictures
from ddps_ray.students.optimising import Share, check_workers, epoch_batches, parameter_groups, parts_of
from ddps_ray.students.protocols import Protocol
from ddps_ray.students.sets import TrainingSet
from ddps_ray.students.training import Means, Outcome, State, Training

COLOURS = {"blue": (30, 30, 220), "green": (30, 220, 30), "red": (220, 30, 30)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Eight plain 8×8 images of each of three colours."""
    folder = tmp_path_factory.mktemp("colours")
    rows = []
    for name, rgb in COLOURS.items():
        for shade in range(8):
            file = folder / f"{name}{shade}.png"
            Image.new("RGB", (8, 8), tuple(max(0, level - 3 * shade) for level in rgb)).save(file)
            rows.append({"image_id": file.name, "uri": str(file), "class_id": name})
    return Pictures(pa.Table.from_pylist(rows), sorted(COLOURS), lambda image: image, 8)


class ColourTeacher(nn.Module):
    """Knows the classes: its logits are the mean blue, green and red."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of shape N×3."""
        return 10 * images_NCHW.mean((2, 3)).flip(1)


class Recorder(nn.Module):
    """Keeps what a network is shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """The network's logits."""
        self.seen.append(images_NCHW.clone())
        logits_NK: Tensor = self.network(images_NCHW)
        return logits_NK


CPU = torch.device("cpu")


def student(width: int = 8, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    network = networks.build(Student(arch="convnet2", width=width), 3, 8)
    return nn.Sequential(network, nn.Dropout(dropout)) if dropout else network


def protocol(epochs: int, **changes: Any) -> Protocol:
    values: dict[str, Any] = {
        "name": "rded",
        "epochs": epochs,
        "batch": 8,
        "optimiser": "adamw",
        "lr": 5e-3,
        "weight_decay": 0.01,
        "decay_all": False,
        "schedule": "half-cosine",
        "loss": "kl",
        "temperature": 20.0,
        "cutmix": True,
        "crop_scale": (0.5, 1.0),
        "shuffle": True,
        "colour": False,
        "ema": 0.0,
        "validations": (epochs,),
    }
    return Protocol(**values | changes)


def trained(
    colours: Pictures, made: Protocol, seed: int = 0, network: nn.Module | None = None, means: Means | None = None
) -> Training:
    teacher = ColourTeacher() if made.teacher else None
    return Training(network or student(), teacher, TrainingSet(colours, True), made, seed, means or Means(8))


def outcome_of(work: Training, validate: training.Validate) -> Outcome:
    outcome = work.run(validate)
    assert outcome is not None
    return outcome


def test_only_weights_of_more_than_one_dimension_decay() -> None:
    network = student()
    decaying, others = parameter_groups(network, 0.01)
    shapes = dict(network.named_parameters())
    names = {name: any(weight is each for each in decaying["params"]) for name, weight in shapes.items()}  # type: ignore[attr-defined]
    assert {name for name, decays in names.items() if decays} == {
        "features.0.weight",
        "features.4.weight",
        "head.weight",
    }
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert len(decaying["params"]) + len(others["params"]) == len(shapes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "stay"),
    [
        ("vit_b_16", {"class_token", "encoder.pos_embedding"}),
        ("swin_t", {"features.1.0.attn.relative_position_bias_table"}),
        ("swin_v2_t", {"features.1.0.attn.logit_scale"}),
        ("vit_tiny_patch16_224", {"cls_token", "pos_embed"}),
    ],
)
def test_tokens_and_what_says_positions_do_not_decay(arch: str, stay: set[str]) -> None:
    with torch.device("meta"):
        network = networks.build(Student(arch=arch), 10, 224)
    decaying = {id(weight) for weight in parameter_groups(network, 0.01)[0]["params"]}  # type: ignore[attr-defined]
    shapes = {name: weight.ndim for name, weight in network.named_parameters() if id(weight) not in decaying}
    odd = {name for name, axes in shapes.items() if axes > 1}
    assert stay <= odd
    assert not {name for name in odd if name.endswith("weight")}
    matrices = [name for name, weight in network.named_parameters() if "weight" in name and weight.ndim > 1]
    assert len(decaying) == len(matrices) > 20


def plain_losses(images_NCHW: Tensor, seed: int, steps: int) -> list[float]:
    """RDED's loop from method.md's facts: PyTorch's own parts, one image at a time where it is about pixels."""
    network, teacher = student(), ColourTeacher()
    decays = [weight for weight in network.parameters() if weight.ndim > 1]
    stays = [weight for weight in network.parameters() if weight.ndim == 1]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": stays, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=5e-3, betas=(0.9, 0.999))
    network.train()
    losses: list[float] = []
    for epoch in range(300):
        for group in adam.param_groups:
            group["lr"] = 5e-3 * 0.5 * (1 + math.cos(math.pi * epoch / 600))
        draws = generator(seed, f"epoch={epoch}", "augmentation")
        for batch in torch.randperm(24, generator=generator(seed, f"epoch={epoch}", "order")).split(8):
            swap_2N = torch.rand(2, 8, generator=draws) < 0.5
            boxes = augment.random_boxes(8, 8, (0.5, 1.0), draws)
            flips = torch.rand(8, generator=draws) < 0.5
            seen = []
            for place, index in enumerate(batch.tolist()):
                image = images_NCHW[index].float() / 255
                if swap_2N[0, place]:
                    image = torch.cat([image[:, :, 4:], image[:, :, :4]], 2)
                if swap_2N[1, place]:
                    image = torch.cat([image[:, 4:], image[:, :4]], 1)
                left, top, width, height = boxes[place].tolist()
                image = F.resized_crop(image, top, left, height, width, [8, 8], antialias=False)
                image = F.hflip(image) if flips[place] else image
                seen.append(F.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
            mixed = torch.stack(seen)
            others = torch.randperm(8, generator=draws)
            kept = torch.rand((), generator=draws).item()
            x, y = torch.randint(8, (2,), generator=draws).tolist()
            cut = int(8 * math.sqrt(1 - kept))
            x1, x2, y1, y2 = max(x - cut // 2, 0), min(x + cut // 2, 8), max(y - cut // 2, 0), min(y + cut // 2, 8)
            source = mixed.clone()
            mixed[:, :, y1:y2, x1:x2] = source[others, :, y1:y2, x1:x2]
            with torch.no_grad():
                goal = torch.softmax(teacher(mixed) / 20, 1)
            loss = nn.KLDivLoss(reduction="batchmean")(torch.log_softmax(network(mixed) / 20, 1), goal)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
            if len(losses) == steps:
                return losses
    return losses


def some_losses(work: Training, steps: int) -> list[float]:
    every = (loss.item() for epoch in range(300) for loss in work.losses(epoch))
    return list(islice(every, steps))


def test_the_first_twenty_losses_are_those_of_a_plain_loop(colours: Pictures) -> None:
    (images_NCHW, _), *_ = colours.in_order(24)
    expected = plain_losses(images_NCHW, 5, 20)
    assert some_losses(trained(colours, protocol(300), 5), 20) == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 1e-4, "there is something to compare"


def bare() -> nn.Module:
    """A network without BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


class Copies(TorchDispatchMode):
    """Counts what goes to a device, and refuses a copy that waits for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device", CPU) != CPU:
            assert kwargs["non_blocking"]
            self.count += 1
        return func(*args, **kwargs)


STEPS: list[dict[str, Any]] = [
    {},
    {"crop_scale": (1.0, 1.0), "shuffle": False},
    {"loss": "mse", "ema": 0.9},
    {"loss": "ce", "optimiser": "sgd", "colour": True},
]


@pytest.mark.parametrize("changes", STEPS)
def test_a_step_asks_nothing_of_the_device(colours: Pictures, changes: dict[str, Any]) -> None:
    """On one that has no values, so that whoever asks for one fails."""
    made = protocol(2, **changes)
    teacher = ColourTeacher() if made.teacher else None
    work = Training(student().to("meta"), teacher, TrainingSet(colours, True), made, 0, Means(8))
    with Copies() as copies:
        losses = list(work.losses(0)) + list(work.losses(1))
    assert [loss.device.type for loss in losses] == ["meta"] * 6
    assert copies.count >= 6 * 4  # images, labels, flips, normalisation


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("changes", STEPS)
def test_a_step_does_not_wait_for_a_gpu(colours: Pictures, changes: dict[str, Any]) -> None:
    made, (images_NCHW, labels_N), device = protocol(2, **changes), *colours.in_order(24), torch.device("cuda", 0)
    pictures = Pictures.of(images_NCHW, labels_N, colours.rows).on(device)
    teacher = ColourTeacher() if made.teacher else None
    work = Training(student().to(device), teacher, TrainingSet(pictures, True), made, 0, Means(8))
    list(work.losses(0))  # in which networks are tuned
    try:
        torch.cuda.set_sync_debug_mode("error")
        losses = list(work.losses(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


def test_a_batch_in_parts_adds_up(colours: Pictures) -> None:
    """Without BatchNorm, whose statistics are those of a part, it is the same training."""
    whole, parts = (
        some_losses(trained(colours, protocol(300), 1, bare(), Means(8, parts=count)), 9) for count in (1, 3)
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def _worker(rank: int, images_NCHW: Tensor, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    labels_N = torch.arange(3).repeat_interleave(8)
    rows = pa.table({"image_id": [str(n) for n in range(24)], "uri": [""] * 24, "class_id": [""] * 24})
    colours = Pictures.of(images_NCHW, labels_N, rows)

    def losses(network: nn.Module, seed: int, steps: int, parts: int, batch: int) -> list[float]:
        wrapped = nn.parallel.DistributedDataParallel(syncing.together(network, CPU))
        means = Means(8, parts=parts, share=Share(rank, 2))
        mine = torch.tensor(some_losses(trained(colours, protocol(300, batch=batch), seed, wrapped, means), steps))
        dist.all_reduce(mine)
        found: list[float] = (mine / 2).tolist()
        return found

    whole, bare_parts = losses(student(), 5, 20, parts=1, batch=8), losses(bare(), 1, 9, parts=3, batch=7)
    uneven = losses(student(), 5, 9, parts=3, batch=7)
    assert syncing.least(5 - rank, CPU) == 4
    if rank == 0:
        torch.save({"whole": whole, "bare": bare_parts, "uneven": uneven}, f"{file}.losses")
    dist.destroy_process_group()


def test_two_workers_train_as_one_does(colours: Pictures, tmp_path: Path) -> None:
    (images_NCHW, _), *_ = colours.in_order(24)
    spawn(_worker, (images_NCHW, str(tmp_path / "meet")), nprocs=2)
    found = torch.load(tmp_path / "meet.losses", weights_only=True)
    assert found["whole"] == pytest.approx(plain_losses(images_NCHW, 5, 20), abs=1e-4)
    alone = some_losses(trained(colours, protocol(300, batch=7), 1, bare()), 9)
    assert found["bare"] == pytest.approx(alone, rel=1e-4)
    assert all(0 < loss < 1 for loss in found["uneven"]), "their BatchNorms meet as often, with 4 images and with 3"


def test_an_epoch_shows_every_image_once() -> None:
    batches = epoch_batches(23, 8, seed=1, epoch=4)
    assert sorted(torch.cat(batches).tolist()) == list(range(23))
    assert not torch.equal(batches[0], epoch_batches(23, 8, 1, 5)[0])


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [
        (24, 8, [8, 8, 8]),
        (20, 8, [8, 8, 4]),
        (18, 8, [8, 5, 5]),
        (17, 8, [8, 5, 4]),
        (4, 3, [2, 2]),
        (5, 2, [2, 3]),  # BatchNorm cannot do with one
        (1, 8, [1]),
    ],
)
def test_a_short_last_batch_is_evened_out_with_the_one_before(count: int, batch: int, sizes: list[int]) -> None:
    batches = epoch_batches(count, batch, 0, 0)
    assert [len(chunk) for chunk in batches] == sizes
    assert sorted(torch.cat(batches).tolist()) == list(range(count))


def test_as_many_workers_as_are_allowed_have_images_of_every_batch() -> None:
    for batch in range(2, 12):
        check_workers("evaluate.workers", batch // 2, batch, each=1)
        for count in range(batch, 4 * batch):
            assert min(len(chunk) for chunk in epoch_batches(count, batch, 0, 0)) >= max(2, batch // 2)


def test_more_workers_than_a_batch_has_images_for_are_refused() -> None:
    check_workers("evaluate.workers", 1, 1, each=1)
    with pytest.raises(
        UserError, match=r"^evaluate\.workers: 6 workers cannot share batches of 10 .*: give 5 at most$"
    ):
        check_workers("evaluate.workers", 6, 10, each=1)
    with pytest.raises(UserError, match=r"^teacher\.workers: 3 workers .*: give 2 at most$"):
        check_workers("teacher.workers", 3, 10, each=2)


@pytest.mark.parametrize(
    ("whole", "world", "parts", "expected"),
    [
        (10, 1, 4, [[3, 3, 2, 2]]),
        (7, 1, 4, [[3, 2, 2]]),
        (3, 1, 2, [[3]]),
        (7, 2, 3, [[2, 1, 1], [1, 1, 1]]),
        (5, 2, 4, [[2, 1], [1, 1]]),
        (1, 1, 1, [[1]]),
    ],
)
def test_every_worker_has_as_many_parts(whole: int, world: int, parts: int, expected: list[list[int]]) -> None:
    shares = [parts_of(whole, Share(rank, world), parts) for rank in range(world)]
    assert [[len(part_N) for part_N in share] for share in shares] == expected
    assert sorted(torch.cat([torch.cat(share) for share in shares]).tolist()) == list(range(whole))


def test_teacher_sees_the_same_mixed_batch_in_eval_mode(colours: Pictures) -> None:
    teacher, pupil = Recorder(networks.build(Student(arch="convnet2", width=4), 3, 8)), Recorder(student())
    before = [value.clone() for value in teacher.state_dict().values()]
    Training(pupil, teacher, TrainingSet(colours, True), protocol(2), 0, Means(8)).run(None)
    assert len(teacher.seen) == 6  # 24 images in batches of 8, two epochs
    assert all(torch.equal(*pair) for pair in zip(teacher.seen, pupil.seen, strict=True))
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "loss": "mse"},
        {"loss": "ce", "optimiser": "sgd", "lr": 0.05, "colour": True, "schedule": "steps"},
        {"loss": "ce", "cutmix": False, "schedule": "cosine"},
    ],
)
def test_student_learns_and_repeats_itself(colours: Pictures, changes: dict[str, Any]) -> None:
    made = protocol(25, validations=(20, 25), **changes)
    outcomes, weights = [], []
    for _ in range(2):
        work = trained(colours, made, 5)
        untrained = training.accuracy(student(), colours, CPU)
        outcomes.append(outcome_of(work, lambda network: training.accuracy(network, colours, CPU)))
        weights.append([value.clone() for value in work.tested.state_dict().values()])
        assert outcomes[-1].accuracy_last == training.accuracy(work.tested, colours, CPU)
    assert untrained < 0.7 < 0.95 < outcomes[0].accuracy_last
    assert outcomes[0].accuracy_best >= outcomes[0].accuracy_last
    assert outcomes[0].best_epoch in (20, 25)
    assert replace(outcomes[0], seconds=0) == replace(outcomes[1], seconds=0)
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_a_running_mean_is_what_is_tested(colours: Pictures) -> None:
    """As EDC has it: it begins with the first weights, and BatchNorm's statistics are the student's own."""
    network = student()
    mean = [weight.detach().clone() for weight in network.parameters()]
    work = trained(colours, protocol(3, batch=24, ema=0.75), network=network)
    for epoch in range(3):
        list(work.losses(epoch))  # a step each
        mean = [0.75 * old + 0.25 * new.detach() for old, new in zip(mean, network.parameters(), strict=True)]
    assert not torch.allclose(mean[0], next(network.parameters()), atol=1e-4)
    torch.testing.assert_close(list(map(torch.Tensor.detach, work.tested.parameters())), mean)
    torch.testing.assert_close(dict(work.tested.named_buffers()), dict(network.named_buffers()))


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"loss": "ce", "optimiser": "sgd"}])
def test_a_training_that_was_cut_ends_as_an_unbroken_one(colours: Pictures, changes: dict[str, Any]) -> None:
    made = protocol(7, validations=(2, 5, 7), **changes)
    states: dict[int, State] = {}

    def keep(state: Callable[[], State], done: int, loss: float) -> None:
        stream = io.BytesIO()
        torch.save(state(), stream)
        states[done] = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)

    def validate(network: nn.Module) -> float:
        return training.accuracy(network, colours, CPU)

    whole = (work := trained(colours, made, 2, student(dropout=0.2))).run(validate, keep)
    assert whole is not None
    unbroken = work.history
    assert [(point.epoch, point.accuracy is not None) for point in unbroken] == [
        (done, done in (2, 5, 7)) for done in range(1, 8)
    ]
    for done in (1, 4, 6):
        torch.manual_seed(99)
        work = trained(colours, made, 2, student(dropout=0.2))
        work.restore(states[done])
        again = outcome_of(work, validate)
        assert replace(again, seconds=0) == replace(whole, seconds=0)
        assert [point._replace(time=0) for point in work.history] == [point._replace(time=0) for point in unbroken]
        assert all(
            torch.equal(ours, other)
            for ours, other in zip(work.state()["student"].values(), states[7]["student"].values(), strict=True)
        )


def test_best_epoch_is_the_first_of_the_highest(colours: Pictures) -> None:
    measured = iter([0.2, 0.6, 0.6, 0.4])
    outcome = outcome_of(trained(colours, protocol(4, validations=(1, 2, 3, 4))), lambda _: next(measured))
    assert (outcome.accuracy_last, outcome.accuracy_best, outcome.best_epoch) == (0.4, 0.6, 2)


def test_another_seed_gives_another_training(colours: Pictures) -> None:
    losses = [outcome_of(trained(colours, protocol(1), seed), lambda _: 0.0).loss for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_accuracy_by_hand(colours: Pictures) -> None:
    class AlwaysGreen(nn.Module):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.0]).expand(len(images_NCHW), 3)

    assert training.accuracy(AlwaysGreen(), colours, CPU) == pytest.approx(1 / 3)
    assert training.accuracy(ColourTeacher(), colours, CPU) == 1.0
