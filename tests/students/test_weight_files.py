"""Teachers from files: what is read, what is fitted, and what is refused in one line."""

import os
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from ddps_ray.config import Network, Teacher
from ddps_ray.errors import UserError
from ddps_ray.students import networks, teachers, weight_files

CLASSES = ["ant", "bee", "cat"]
SMALL = Network(arch="convnet2", width=8)


@pytest.fixture
def order(tmp_path: Path) -> str:
    """A file of class ids in another order than that of the tests."""
    file = tmp_path / "order.txt"
    file.write_text("cat\nant\n\nbee\n")
    return str(file)


@pytest.fixture
def network() -> nn.Module:
    """A ConvNet of three outputs."""
    torch.manual_seed(0)
    return networks.build(SMALL, 3, 16).eval()


def _safetensors(file: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, file)


def _plain(file: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, file)


def _checkpoint(key: str, prefix: str, file: Path, state: dict[str, Tensor]) -> None:
    arguments = Namespace(lr=0.1, data="/data")
    torch.save({"epoch": 3, "args": arguments, key: {prefix + name: value for name, value in state.items()}}, file)


def _rdeds(file: Path, state: dict[str, Tensor]) -> None:
    names = {"features.0": "layers.conv.0", "features.1": "layers.norm.0", "features.4": "layers.conv.1"}
    names |= {"features.5": "layers.norm.1", "head": "classifier"}
    renamed = {names[key.rpartition(".")[0]] + "." + key.rpartition(".")[2]: value for key, value in state.items()}
    torch.save({"model": renamed}, file)


def _old(file: Path, state: dict[str, Tensor]) -> None:
    counted = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(counted, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "write",
    [
        _safetensors,
        _plain,
        _old,
        _rdeds,
        partial(_checkpoint, "state_dict", "module."),
        partial(_checkpoint, "model", "_orig_mod.module."),
        partial(_checkpoint, "model_state_dict", ""),
    ],
)
def test_outputs_come_in_the_order_that_is_asked_for(
    tmp_path: Path, order: str, network: nn.Module, write: Callable[[Path, dict[str, Tensor]], None]
) -> None:
    file = tmp_path / "weights"
    write(file, network.state_dict())
    teacher = Teacher(model=SMALL, weights=str(file), class_order=order)
    images = torch.randn(2, 3, 16, 16)
    loaded = teachers.load(teacher, "", CLASSES, 16)
    assert torch.allclose(loaded(images), network(images)[:, [1, 2, 0]], atol=1e-6)
    assert not loaded.training


def test_a_mean_and_standard_deviation_of_its_own(tmp_path: Path, order: str, network: nn.Module) -> None:
    _plain(tmp_path / "weights", network.state_dict())
    own: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    teacher = Teacher(model=SMALL, weights=str(tmp_path / "weights"), class_order=order, **own)
    colours = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    made = teachers.load(teacher, "", ["cat", "ant", "bee"], 16)((colours - mean) / std)
    assert torch.allclose(made, network((colours - 0.5) / 0.25), atol=1e-5)


def test_a_teacher_of_another_run_needs_no_class_order(tmp_path: Path, network: nn.Module) -> None:
    teachers.save(network, str(tmp_path), SMALL, ["n02206856", "cat", "ant"], 0.5)
    teacher = Teacher(weights=f"{tmp_path}/model.safetensors")
    images = torch.randn(2, 3, 16, 16)
    made = teachers.load(teacher, "", CLASSES, 16, {"bee": "n02206856"})(images)
    assert torch.allclose(made, network(images)[:, [2, 0, 1]], atol=1e-6)
    assert teachers.name("", teacher) == "model"
    other = Teacher(weights=teacher.weights, model=Network(arch="convnet2", width=16))
    with pytest.raises(UserError, match=r"teacher\.model\.arch: convnet2-w16, and by .*teacher\.json .* convnet2-w8"):
        teachers.load(other, "", ["cat"], 16)


def test_imagenets_order_knows_wordnet_ids(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    teacher = Teacher(model=SMALL, weights=str(tmp_path / "weights"), class_order="imagenet-1k")
    wnids = {"parachutes": "n03888257"}
    known = teachers.check(teacher, "", ["parachutes", "n01440764"], wnids)
    assert teachers.outputs(teacher, known, ["parachutes", "n01440764"], wnids) == [701, 0]
    with pytest.raises(UserError, match=r"teacher\.class_order: imagenet-1k does not name class 'fox'"):
        teachers.check(teacher, "", ["fox"])


@pytest.mark.parametrize("arch", ["efficientnet_b0", "mobilenetv2_100"])
def test_of_two_networks_of_a_name_that_one_is_made_whose_weights_they_are(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model(arch, num_classes=3).eval()
    _plain(tmp_path / "weights", network.state_dict())
    (tmp_path / "order").write_text("ant\nbee\ncat")
    teacher = Teacher(model=Network(arch=arch), weights=f"{tmp_path}/weights", class_order=f"{tmp_path}/order")
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(teachers.load(teacher, "", CLASSES, 64)(images), network(images), atol=1e-4)


def test_torchvisions_published_densenet_is_called_as_its_network_calls_it() -> None:
    old = {"features.denseblock1.denselayer1.norm.1.weight": torch.ones(64)}
    assert list(weight_files._renamed(old, "densenet121")) == ["features.denseblock1.denselayer1.norm1.weight"]


def test_position_embeddings_are_brought_to_the_size() -> None:
    network = torchvision.models.vision_transformer.VisionTransformer(64, 16, 1, 2, 32, 64, num_classes=3)
    make = partial(torchvision.models.vision_transformer.VisionTransformer, 32, 16, 1, 2, 32, 64, num_classes=3)
    wanted = weight_files.Wanted("a file", "vit", 3, "teacher.class_order")
    made = weight_files.fitted([make], network.state_dict(), wanted, 32).eval()
    assert made(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert torch.equal(made.state_dict()["conv_proj.weight"], network.state_dict()["conv_proj.weight"])


class Runs:
    """What would run a command if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


def _without(key: str, file: Path, state: dict[str, Tensor]) -> None:
    _plain(file, {name: value for name, value in state.items() if name != key})


def _cut_off(write: Callable[[Path, dict[str, Tensor]], None], file: Path, state: dict[str, Tensor]) -> None:
    write(file, state)
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (partial(_without, "head.bias"), "has no 'head.bias', which convnet2-w8 needs"),
        (lambda file, state: _plain(file, state | {"more": torch.ones(1)}), "has 'more', which convnet2-w8 has not"),
        (
            lambda file, state: _plain(file, state | {"head.weight": torch.ones(5, 128), "head.bias": torch.ones(5)}),
            "has 5 outputs, and teacher.class_order names 3 classes",
        ),
        (
            lambda file, state: _plain(file, state | {"features.0.weight": torch.ones(8, 1, 3, 3)}),
            r"'features.0.weight' is of shape \[8, 1, 3, 3\], where convnet2-w8 has \[8, 3, 3, 3\]",
        ),
        (lambda file, state: torch.save({"model": state, "args": Runs()}, file), "holds pickled objects"),
        (lambda file, state: torch.save(nn.Linear(2, 2), file), "holds pickled objects"),
        (lambda file, state: torch.save([1, 2], file), "holds no state dict"),
        (lambda file, state: torch.save({"epoch": 3, "best": 0.5}, file), "holds no state dict, .*: epoch, best"),
        (lambda file, state: torch.save({}, file), "holds no weights"),
        (partial(_cut_off, _safetensors), "is damaged: "),
        (partial(_cut_off, _plain), "is damaged: "),
        (lambda file, state: file.write_text("<html>"), "is neither a safetensors file nor a state dict"),
        (lambda file, state: file.write_bytes(b""), "is neither a safetensors file nor a state dict"),
    ],
)
def test_a_file_that_does_not_suit_is_one_line_that_names_it(
    tmp_path: Path, order: str, network: nn.Module, write: Callable[[Path, dict[str, Tensor]], Any], said: str
) -> None:
    write(file := tmp_path / "weights", network.state_dict())
    teacher = Teacher(model=SMALL, weights=str(file), class_order=order)
    teachers.check(teacher, "", CLASSES)
    with pytest.raises(UserError, match=rf"^teacher\.weights: {file}:? {said}") as caught:
        teachers.load(teacher, "", CLASSES, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (None, r"teacher\.class_order: must say the order of the outputs of .*weights: a file of class ids"),
        (b"", "order names no class"),
        (b"ant\nbee\nant", "order has 'ant' twice"),
        (b"\xff\xfe\x00", "order cannot be read: 'utf-8'"),
        (b"ant\nbee", "order does not name class 'cat', neither by its id nor by its WordNet id"),
        ("absent", "absent cannot be read: "),
    ],
)
def test_an_order_that_does_not_suit_is_found_without_the_weights(
    tmp_path: Path, listed: bytes | str | None, said: str
) -> None:
    (tmp_path / "weights").write_bytes(b"not looked at")
    if isinstance(listed, bytes):
        (tmp_path / "order").write_bytes(listed)
    given = None if listed is None else str(tmp_path / (listed if isinstance(listed, str) else "order"))
    with pytest.raises(UserError, match=said):
        teachers.check(Teacher(model=SMALL, weights=str(tmp_path / "weights"), class_order=given), "", CLASSES)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"teacher\.weights: there is no file .*/pubished; .* published or trained"):
        teachers.check(Teacher(weights="pubished"), "", CLASSES)


def test_a_teacher_with_a_name_is_named() -> None:
    with pytest.raises(UserError, match=r"^teachers\.strong\.weights: there is no file"), teachers.named("strong"):
        teachers.check(Teacher(weights="/no/such.pth"), "", CLASSES)
