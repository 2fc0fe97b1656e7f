"""Teachers: head slicing, saving, resuming."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from timm.data import ImageNetInfo
from torch import nn

from ddps_ray.config import Evaluate, Network, Teacher
from ddps_ray.errors import UserError
from ddps_ray.storage import Run
from ddps_ray.students import data, networks, teacher_training, teachers
from tests.students import inputs

CLASSES = ["ant", "bee", "cat", "dog", "eel"]
TRAINED = Teacher(model=Network(arch="convnet2", width=8), weights="trained", epochs=4, batch=16, seed=2)


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
        ("resnet18_small", ["n01440764"], "no weights of 'resnet18_small'"),
        ("resnet50.IMAGENET1K_V9", ["n01440764"], "torchvision's are resnet50.IMAGENET1K_V1, resnet50.IMAGENET1K_V2:"),
        ("vgg16.IMAGENET1K_FEATURES", ["n01440764"], "no weights of 'vgg16.IMAGENET1K_FEATURES'"),  # no head
        ("vit_base_patch16_224.augreg_in21k", ["n01440764"], "has 21843 outputs, not ImageNet-1K's 1000 classes"),
    ],
)
def test_published_teacher_that_does_not_suit_is_refused(arch: str, classes: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        teachers.check(Teacher(model=Network(arch=arch)), "", classes)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18", "resnet18.tv_in1k"),
        ("resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("resnet50.IMAGENET1K_V2", "resnet50.IMAGENET1K_V2"),
        ("mobilenet_v2", "mobilenet_v2.IMAGENET1K_V1"),
        ("efficientnet_b0", "efficientnet_b0.IMAGENET1K_V1"),
        ("mobilenetv2_100", "mobilenetv2_100.ra_in1k"),
        ("vit_base_patch16_224", "vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    ],
)
def test_published_weights_are_torchvisions_unless_the_name_says_otherwise(arch: str, name: str) -> None:
    assert teachers.name("", Teacher(model=Network(arch=arch))) == name


def test_a_teacher_goes_by_its_name_in_the_recipe() -> None:
    assert teachers.name("strong", Teacher(weights="timm", model=Network(arch="resnet50"))) == "strong"
    wide = Teacher(weights="trained", model=Network(arch="convnet4", width=64))
    assert teachers.name("", wide) == "convnet4-w64"
    assert teachers.name("", Teacher(weights="/w/best.pth", model=Network(arch="resnet18"))) == "resnet18.best"


@pytest.mark.parametrize(
    ("arch", "accuracy"),
    [
        ("resnet18", 0.69758),
        ("resnet50.tv_in1k", 0.7613),
        ("densenet121", 0.74434),
        ("mobilenet_v2", 0.71878),
        ("resnet18.a1_in1k", None),  # timm publishes it elsewhere than in its code
        ("resnet50.IMAGENET1K_V2", None),  # of images resized to 232 px
        ("swin_v2_t", None),  # of 256 px
        ("efficientnet_b0", None),  # resized bicubically
    ],
)
def test_published_accuracy_is_that_of_images_prepared_as_ours(arch: str, accuracy: float | None) -> None:
    teacher = Teacher(model=Network(arch=arch))
    assert teachers.expected_accuracy(teacher, all_classes=True, size=224) == accuracy
    assert teachers.expected_accuracy(teacher, all_classes=True, size=128) is None
    assert teachers.expected_accuracy(teacher, all_classes=False, size=224) is None


def test_a_stated_accuracy_wins() -> None:
    teacher = Teacher(model=Network(arch="resnet18"), accuracy=0.9)
    assert teachers.expected_accuracy(teacher, all_classes=True, size=224) == 0.9
    assert teachers.expected_accuracy(TRAINED, all_classes=True, size=224) is None


def test_a_teacher_of_another_normalisation_sees_its_own() -> None:
    class Given(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    colours = torch.rand(2, 3, 4, 4)
    ours = (colours - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    seen = teachers.Renormalised(Given(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(ours)
    assert torch.allclose(seen, 2 * colours - 1, atol=1e-6)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of torchvision's downloads, with a file of random weights under the name of the published one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    return folder


def test_torchvisions_weights_are_taken_from_its_cache(hub: Path) -> None:
    teacher = Teacher(model=Network(arch="squeezenet1_1"))
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1().eval()
    images = torch.randn(2, 3, 64, 64)
    sliced = teachers.load(teacher, "", ["n03888257", "n01440764"], 64)
    assert torch.allclose(sliced(images), network(images)[:, [701, 0]], atol=1e-5)


@pytest.mark.parametrize("content", [b"no weights", pickle.dumps({"a": Path("b")})])
def test_a_damaged_download_is_one_line(hub: Path, content: bytes) -> None:
    (hub / "squeezenet1_1-b8a52dc0.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot fetch the weights of squeezenet1_1\.IMAGENET1K_V1: ") as caught:
        teachers.load(Teacher(model=Network(arch="squeezenet1_1")), "", ["n01440764"], 224)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("accuracy", "images", "classes", "expected", "said"),
    [
        (0.001, 50_000, 1000, None, "near chance"),
        (0.1, 1000, 10, None, "near chance"),
        (0.5, 2000, 2, None, "near chance"),
        (0.1, 30, 10, None, None),  # too few to tell
        (0.2, 1000, 10, None, None),
        (0.65, 2000, 2, None, None),
        (1.0, 50, 1, None, None),
        (0.69758, 50_000, 1000, 0.69758, None),
        (0.694, 50_000, 1000, 0.69758, None),
        (0.690, 50_000, 1000, 0.69758, "0.8 points below the 69.76%"),
        (0.705, 50_000, 1000, 0.69758, "0.7 points above"),
        (0.68, 1000, 1000, 0.69758, None),  # of a thousand images, 2.9 points either way
        (0.65, 1000, 1000, 0.69758, "4.8 points below"),
    ],
)
def test_a_teacher_that_cannot_be_right_is_found(
    accuracy: float, images: int, classes: int, expected: float | None, said: str | None
) -> None:
    found = teachers.verdict(accuracy, images, classes, expected)
    assert (found is None) == (said is None)
    assert found is None or (said is not None and said in found and "Likely cause: " in found)


def test_no_teacher_is_needed_for_hard_labels() -> None:
    assert not teachers.needed(Evaluate(protocols=("hard", "minimax")))
    assert teachers.needed(Evaluate(protocols=("hard", "edc")))


def test_a_training_tells_how_many_images_are_done(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    classes = data.class_ids(run, "train")[:4]
    pictures = data.load_training(run, "train", classes, 16)
    told: list[tuple[int, int]] = []
    cfg = TRAINED.model_copy(update={"epochs": 2, "batch": 20})
    network = networks.build(cfg.model, 4, 16)
    tell = lambda epochs, images: told.append((epochs, images))  # noqa: E731
    teacher_training.train(network, pictures, cfg, 16, lambda state, loss: None, tell=tell)
    assert told == [(0, 20), (0, 34), (0, 48), (1, 20), (1, 34), (1, 48)]


def test_states_are_saved_about_twenty_times() -> None:
    assert teacher_training.saved_epochs(3) == {1, 2, 3}
    assert sorted(teacher_training.saved_epochs(300)) == list(range(15, 301, 15))


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
    teacher_training.train(unbroken, pictures, TRAINED, 16, keep)
    assert sorted(states) == [1, 2, 3, 4]
    second = torch.load(io.BytesIO(states[2]), weights_only=True)
    teacher_training.train(resumed, pictures, TRAINED, 16, lambda state, loss: None, second)
    pairs = zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("right", "images", "classes", "doubted"),
    [
        (0, 10, 10, True),  # permuted, one image a class
        (2, 10, 10, True),
        (4, 10, 10, False),
        (10, 100, 10, True),
        (20, 100, 10, True),  # permuted, but for two classes
        (40, 100, 10, False),
        (3, 1000, 1000, True),
        (50, 1000, 1000, False),
        (4, 20, 2, True),  # swapped
        (16, 20, 2, False),
        (2, 2, 2, False),
        (3, 3, 1, False),
    ],
)
def test_labels_that_a_teacher_does_not_know_are_doubted(right: int, images: int, classes: int, doubted: bool) -> None:
    said = teachers.doubt_of_labels(right / images, images, classes)
    assert (said is not None) is doubted
    assert said is None or "number the classes in another order" in said
