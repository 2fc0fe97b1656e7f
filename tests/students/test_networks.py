"""Architectures by name."""

import pytest
import torch

from ddps_ray.config import Student
from ddps_ray.errors import UserError
from ddps_ray.students import networks


def parameters(student: Student, classes: int, size: int) -> int:
    return sum(weight.numel() for weight in networks.build(student, classes, size).parameters())


def test_convnet3_has_the_parameters_of_the_literature() -> None:
    # Convolutions 3·128·9 + 128 and twice 128·128·9 + 128, three BatchNorms of 2·128, linear 128·4·4·10 + 10.
    assert parameters(Student(arch="convnet3"), 10, 32) == 3584 + 2 * 147584 + 3 * 256 + 20490 == 320010


def test_width_and_depth_of_a_convnet() -> None:
    network = networks.build(Student(arch="convnet4", width=8), 5, 64)
    expected = (3 * 8 * 9 + 8) + 3 * (8 * 8 * 9 + 8) + 4 * 16 + (8 * 4 * 4 * 5 + 5)
    assert sum(weight.numel() for weight in network.parameters()) == expected
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_small_resnet18_keeps_the_resolution_in_its_stem() -> None:
    student = Student(arch="resnet18_small")
    assert parameters(student, 10, 32) == 11_173_962  # the ResNet-18 of the CIFAR literature
    network = networks.build(student, 10, 32)
    seen: list[tuple[int, ...]] = []
    network.layer1.register_forward_hook(lambda module, given, made: seen.append(tuple(made.shape)))  # type: ignore[union-attr]
    network(torch.zeros(1, 3, 32, 32))
    assert seen == [(1, 64, 32, 32)]


def test_transformer_of_fixed_input_is_built_for_the_size_asked() -> None:
    network = networks.build(Student(arch="vit_tiny_patch16_224"), 3, 32).eval()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("arch", ["convnet", "convnet0", "nosuchnet", "resnet18.nosuch", "timm/resnet18"])
def test_unknown_architecture_is_named(arch: str) -> None:
    with pytest.raises(UserError, match=f"no network '{arch}'"):
        networks.check(Student(arch=arch), 10, 64)


def test_size_that_a_convnet_cannot_halve_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluate\.size.*convnet3.*60 px"):
        networks.check(Student(arch="convnet3"), 10, 60)


@pytest.mark.parametrize(
    ("arch", "rate"),
    [
        ("convnet3", 1e-3),
        ("resnet18_small", 1e-3),
        ("resnet101", 1e-3),
        ("efficientnet_b0", 2e-3),
        ("mobilenetv2_100", 2.5e-3),
        ("vit_base_patch16_224", 1e-4),
        ("swin_tiny_patch4_window7_224", 1e-4),
    ],
)
def test_default_learning_rates_are_rdeds(arch: str, rate: float) -> None:
    assert networks.learning_rate(Student(arch=arch)) == rate
    assert networks.learning_rate(Student(arch=arch, lr=0.5)) == 0.5


def test_names_tell_students_apart() -> None:
    students = [Student(arch="convnet3"), Student(arch="convnet3", width=32), Student(arch="resnet18", lr=2e-3)]
    assert [networks.name(student) for student in students] == ["convnet3", "convnet3-w32", "resnet18-lr0.002"]
