"""The training loop: its schedule, its loss, and that a student learns from soft labels alone."""

import math

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ddps_ray.config import Evaluate, Student
from ddps_ray.students import networks, training
from ddps_ray.students.data import Distilled, Pictures
from ddps_ray.students.training import Protocol, Share

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


def student() -> nn.Module:
    torch.manual_seed(3)
    return networks.build(Student(arch="convnet2", width=8), 3, 8)


def protocol(epochs: int) -> Protocol:
    return Protocol(epochs, batch=8, lr=5e-3, weight_decay=0.01, temperature=20, cutmix=True, size=8)


def test_learning_rate_ends_at_half() -> None:
    factors = [training.learning_rate_factor(epoch, 4) for epoch in range(4)]
    assert factors == pytest.approx([1, 0.5 * (1 + math.cos(math.pi / 8)), 0.8535534, 0.6913417])
    assert training.learning_rate_factor(4, 4) == pytest.approx(0.5)


def test_only_weights_of_more_than_one_dimension_decay() -> None:
    network = student()
    decaying, others = training.parameter_groups(network, 0.01)
    shapes = dict(network.named_parameters())
    names = {name: any(weight is each for each in decaying["params"]) for name, weight in shapes.items()}  # type: ignore[attr-defined]
    assert {name for name, decays in names.items() if decays} == {
        "features.0.weight",
        "features.4.weight",
        "head.weight",
    }
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert len(decaying["params"]) + len(others["params"]) == len(shapes)  # type: ignore[arg-type]


def test_loss_by_hand() -> None:
    # At temperature 20 the teacher says (¾, ¼) and the student (½, ½); the second image has no loss.
    teacher = torch.tensor([[20 * math.log(3), 0.0], [5.0, 5.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = training.soft_label_loss(torch.zeros(2, 2), teacher, 20)
    assert loss.item() == pytest.approx(divergence / 2) == pytest.approx(0.0654059, abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "sizes"), [(10, (10, 10, 50, 50, 100)), (100, (20, 20, 100, 100, 200)), (200, (100,) * 5)]
)
def test_batch_sizes_are_rdeds(classes: int, sizes: tuple[int, ...]) -> None:
    assert tuple(training.batch_size(ipc, classes) for ipc in (1, 9, 10, 49, 50)) == sizes


def test_protocol_takes_what_the_recipe_says_and_rdeds_for_the_rest() -> None:
    made = Protocol.of(Evaluate(size=64, epochs=7), Student(arch="efficientnet_b0"), ipc=10, classes=1000)
    assert made == Protocol(7, 100, 2e-3, 0.01, 20, True, 64)
    assert Protocol.of(Evaluate(batch=33), Student(arch="resnet18"), 10, 10).batch == 33


def test_workers_share_an_epoch_without_overlap() -> None:
    alone = training.epoch_chunks(23, 8, seed=1, epoch=4)
    parts = [training.epoch_chunks(23, 8, 1, 4, Share(rank, 2)) for rank in range(2)]
    assert sorted(torch.cat(alone).tolist()) == list(range(23))
    for whole, *halves in zip(alone, *parts, strict=True):
        assert sorted(torch.cat(halves).tolist()) == sorted(whole.tolist())
    assert not torch.equal(alone[0], training.epoch_chunks(23, 8, 1, 5)[0])


def test_last_batch_too_small_for_batch_norm_is_left_out() -> None:
    assert [len(chunk) for chunk in training.epoch_chunks(17, 8, 0, 0)] == [8, 8]
    assert [len(chunk) for chunk in training.epoch_chunks(18, 8, 0, 0)] == [8, 8, 2]
    assert [len(chunk) for chunk in training.epoch_chunks(1, 8, 0, 0)] == [1]


def test_validation_is_rare_but_always_at_the_end() -> None:
    assert training.validated_epochs(3) == {1, 2, 3}
    assert training.validated_epochs(300) == set(range(15, 301, 15))
    assert max(training.validated_epochs(307)) == 307
    assert len(training.validated_epochs(307)) <= 20


def test_teacher_sees_the_same_mixed_batch_in_eval_mode(colours: Pictures) -> None:
    teacher, pupil = Recorder(networks.build(Student(arch="convnet2", width=4), 3, 8)), Recorder(student())
    before = [value.clone() for value in teacher.state_dict().values()]
    training.train_student(pupil, teacher, Distilled(colours, mosaic=True), protocol(2), 0, None)
    assert len(teacher.seen) == 6  # 24 images in batches of 8, two epochs
    assert all(torch.equal(*pair) for pair in zip(teacher.seen, pupil.seen, strict=True))
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))


def test_student_learns_from_soft_labels_and_repeats_itself(colours: Pictures) -> None:
    outcomes, weights = [], []
    for _ in range(2):
        network = student()
        untrained = training.accuracy(network, colours, torch.device("cpu"))
        outcome = training.train_student(
            network,
            ColourTeacher(),
            Distilled(colours, mosaic=False),
            protocol(25),
            seed=5,
            validate=lambda network=network: training.accuracy(network, colours, torch.device("cpu")),  # type: ignore[misc]
        )
        outcomes.append(outcome)
        weights.append([value.clone() for value in network.state_dict().values()])
    assert outcomes[0] is not None
    assert untrained < 0.7 < 0.95 < outcomes[0].accuracy_last
    assert outcomes[0].accuracy_last == training.accuracy(network, colours, torch.device("cpu"))
    assert outcomes[0].accuracy_best >= outcomes[0].accuracy_last
    assert outcomes[0].best_epoch in training.validated_epochs(25)
    assert outcomes[0] == outcomes[1]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_best_epoch_is_the_first_of_the_highest(colours: Pictures) -> None:
    measured = iter([0.2, 0.6, 0.6, 0.4])
    outcome = training.train_student(
        student(), ColourTeacher(), Distilled(colours, False), protocol(4), 0, lambda: next(measured)
    )
    assert outcome is not None
    assert (outcome.accuracy_last, outcome.accuracy_best, outcome.best_epoch) == (0.4, 0.6, 2)


def test_another_seed_gives_another_training(colours: Pictures) -> None:
    losses = []
    for seed in (0, 1):
        outcome = training.train_student(
            student(), ColourTeacher(), Distilled(colours, False), protocol(1), seed, lambda: 0.0
        )
        assert outcome is not None
        losses.append(outcome.loss)
    assert losses[0] != losses[1]


def test_accuracy_by_hand(colours: Pictures) -> None:
    class AlwaysGreen(nn.Module):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.0]).expand(len(images_NCHW), 3)

    cpu = torch.device("cpu")
    assert training.accuracy(AlwaysGreen(), colours, cpu) == pytest.approx(1 / 3)
    assert training.accuracy(ColourTeacher(), colours, cpu) == 1.0
