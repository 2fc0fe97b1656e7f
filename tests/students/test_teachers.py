"""Teachers: head slicing, saving, resuming."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data import ImageNetInfo
from torch import nn

from ddps_ray.config import Student, Teacher
from ddps_ray.errors import UserError
from ddps_ray.storage import Run
from ddps_ray.students import data, networks, teachers
from tests.students import inputs

CLASSES = ["ant", "bee", "cat", "dog", "eel"]
TRAINED = Teacher(model=Student(arch="convnet2", width=8), weights="trained", epochs=4, batch=16, seed=2)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, nn.Module]:
    """A teacher of five classes, and the folder that holds it."""
    torch.manual_seed(0)
    network = networks.build(TRAINED.model, len(CLASSES), 16)
    teachers.save(network, str(tmp_path), TRAINED.model, CLASSES, 0.5)
    return str(tmp_path), network.eval()


def test_subset_is_the_head_cut_to_its_rows(saved: tuple[str, nn.Module]) -> None:
    folder, network = saved
    images = torch.randn(3, 3, 16, 16)
    sliced = teachers.load(TRAINED, folder, ["bee", "eel"], 16)
    head = network.head
    assert isinstance(head, nn.Linear)
    by_hand = network.features(images).flatten(1) @ head.weight[[1, 4]].T + head.bias[[1, 4]]  # type: ignore[operator]
    assert torch.allclose(sliced(images), by_hand, atol=1e-6)
    assert not sliced.training


def test_saved_teacher_comes_back_whole(saved: tuple[str, nn.Module]) -> None:
    folder, network = saved
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(teachers.load(TRAINED, folder, CLASSES, 16)(images), network(images))
    assert teachers.describe(folder)["accuracy"] == 0.5


def test_class_that_the_teacher_does_not_know_is_named(saved: tuple[str, nn.Module]) -> None:
    with pytest.raises(UserError, match="do not know class 'fox'"):
        teachers.load(TRAINED, saved[0], ["bee", "fox"], 16)


def test_damaged_weights_are_named(saved: tuple[str, nn.Module]) -> None:
    file = Path(saved[0]) / teachers.WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        teachers.load(TRAINED, saved[0], CLASSES, 16)


def test_published_weights_are_in_the_order_of_the_wnids() -> None:
    known = teachers.check(Teacher(), "", ["n03888257", "n01440764"])
    assert (known.index("n01440764"), known.index("n03888257"), len(known)) == (0, 701, 1000)  # tench, parachute
    assert known == ImageNetInfo().label_names()


def test_published_weights_know_a_class_by_its_wordnet_id() -> None:
    wnids = {"00000": "n03888257", "00013": "n01440764"}
    assert len(teachers.check(Teacher(), "", ["00000", "00013", "n01443537"], wnids)) == 1000
    with pytest.raises(
        UserError, match=r"do not know class '00001': they go by .*WordNet ids, which data\.classes can"
    ):
        teachers.check(Teacher(), "", ["00000", "00001"], wnids)
    with pytest.raises(UserError, match="knows '00000' and 'n03888257' as one class, n03888257"):
        teachers.check(Teacher(), "", ["00000", "n03888257"], wnids)


def test_each_class_has_the_output_of_its_wordnet_id() -> None:
    wnids = {"parachutes": "n03888257", "a fish": "n01440764"}
    class_ids = ["a fish", "parachutes", "n01443537"]
    known = teachers.check(Teacher(), "", class_ids, wnids)
    assert teachers.outputs(Teacher(), known, class_ids, wnids) == [0, 701, 1]


def test_a_trained_teacher_goes_by_class_ids(saved: tuple[str, nn.Module]) -> None:
    wnids = {"bee": "n02206856"}
    known = teachers.check(TRAINED, saved[0], ["eel", "bee"], wnids)
    assert teachers.outputs(TRAINED, known, ["eel", "bee"], wnids) == [4, 1]


@pytest.mark.parametrize(
    ("arch", "classes", "said"),
    [
        ("resnet18", ["apple"], "do not know class 'apple'"),
        ("convnet3", ["n01440764"], "no weights of 'convnet3'"),
        ("vit_base_patch16_224", ["n01440764"], "mean and standard deviation"),
    ],
)
def test_published_teacher_that_does_not_suit_is_refused(arch: str, classes: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        teachers.check(Teacher(model=Student(arch=arch)), "", classes)


def test_published_weights_are_torchvisions_unless_a_tag_says_otherwise() -> None:
    names = ("resnet18", "resnet18.a1_in1k", "mobilenetv2_100")
    made = [teachers.name(Teacher(model=Student(arch=arch))) for arch in names]
    assert made == ["resnet18.tv_in1k", "resnet18.a1_in1k", "mobilenetv2_100"]


def test_learning_rate_falls_to_zero() -> None:
    assert [teachers.cosine(progress) for progress in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_training_that_goes_on_ends_where_an_unbroken_one_does(scenes: Path, tmp_path: Path) -> None:
    run: Run = inputs.indexed(tmp_path / "run", scenes)
    classes = data.class_ids(run, "train")
    pictures = data.load_training(run, "train", classes, 16)
    states: dict[int, bytes] = {}

    def keep(state: dict[str, Any], loss: float) -> None:
        memory = io.BytesIO()
        torch.save(state, memory)
        states[state["epochs"]] = memory.getvalue()

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return networks.build(TRAINED.model, len(classes), 16)

    unbroken, resumed = network(0), network(1)
    teachers.train(unbroken, pictures, TRAINED, 16, keep)
    assert sorted(states) == [1, 2, 3, 4]
    second = torch.load(io.BytesIO(states[2]), weights_only=True)
    teachers.train(resumed, pictures, TRAINED, 16, lambda state, loss: None, second)
    pairs = zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
