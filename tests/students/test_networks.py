"""Architectures by name."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from ddps_ray.config import Student
from ddps_ray.errors import UserError
from ddps_ray.students import networks


def parameters(student: Student, classes: int, size: int) -> int:
    return sum(weight.numel() for weight in networks.build(student, classes, size).parameters())


def on_meta(arch: str, size: int) -> nn.Module:
    """A network of ten outputs without memory for its weights."""
    with torch.device("meta"):
        return networks.build(Student(arch=arch), 10, size)


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


@pytest.mark.parametrize(("arch", "root"), [("efficientnet_b0", 1), ("mnasnet0_5", 3)])
def test_heads_begin_as_those_of_a_thousand_outputs(arch: str, root: int) -> None:
    """RDED cuts heads of 1,000 outputs down: torchvision draws these from ±1/√1000, and ±√3/√1000."""
    torch.manual_seed(0)
    head = networks.build(Student(arch=arch), 10, 64).get_parameter("classifier.1.weight")
    assert head.shape == (10, 1280)
    assert head.abs().max().item() == pytest.approx((root / 1000) ** 0.5, rel=0.01)


def _dropouts(network: nn.Module) -> list[float]:
    """Probabilities of the dropout layers that do something, in their order."""
    return [module.p for module in network.modules() if isinstance(module, nn.Dropout) and module.p]


def _depths(network: nn.Module) -> list[float]:
    """Probabilities with which whole residual branches are dropped, in their order."""
    return [module.p for module in network.modules() if isinstance(module, StochasticDepth)]


@pytest.mark.parametrize("arch", ["mobilenet_v2", "mobilenetv2_100", "efficientnet_b0"])
def test_light_networks_have_torchvisions_dropout(arch: str) -> None:
    assert _dropouts(on_meta(arch, 224)) == [0.2]


@pytest.mark.parametrize(
    ("arch", "branches", "highest"),
    [
        ("efficientnet_b0", 16, 0.2 * 15 / 16),  # from 0 on, in steps of 0.2 / 16
        ("swin_t", 12, 0.2),  # one a block
        ("swin_tiny_patch4_window7_224", 12, 0.2),
        ("swin_v2_t", 12, 0.2),
    ],
)
def test_stochastic_depth_rises_to_that_of_the_reference(arch: str, branches: int, highest: float) -> None:
    probabilities = _depths(on_meta(arch, 224))
    assert len(probabilities) == branches
    assert probabilities[0] == 0
    assert probabilities == sorted(probabilities)
    assert probabilities[-1] == pytest.approx(highest)


def test_depthwise_weights_begin_as_torchvisions() -> None:
    # Kaiming over the outputs: of a depthwise 3×3 convolution of 32 channels a standard deviation of √(2 / (32·9)),
    # where timm's takes √(2 / 9).
    torch.manual_seed(0)
    network = networks.build(Student(arch="mobilenet_v2"), 10, 64)
    depthwise = next(module for module in network.modules() if isinstance(module, nn.Conv2d) and module.groups == 32)
    assert depthwise.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.15)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("convnet3", 32),
        ("convnet4", 64),
        ("convnet5", 128),
        ("convnet6", 224 - 32),  # 224 px can be halved five times
        ("convnet5", 224),
        ("resnet18", 224),
        ("resnet50", 224),
        ("resnet101", 224),
        ("resnet18_small", 32),
        ("resnet50_small", 64),
        ("resnet101_small", 64),
        ("mobilenet_v2", 224),
        ("efficientnet_b0", 224),
        ("swin_t", 224),
        ("swin_v2_t", 224),
        ("vit_b_16", 224),
        ("vit_b_16", 128),
        ("vit_base_patch16_224", 224),
        ("vgg11", 224),
        ("deit_tiny_patch16_224", 224),
        ("convnext_atto", 224),
        ("resnet18d", 128),
    ],
)
def test_students_of_the_literature_can_be_built(arch: str, size: int) -> None:
    networks.check(Student(arch=arch), 10, size)


@pytest.mark.parametrize(("arch", "blocks"), [("resnet18", 2), ("resnet50", 3), ("resnet101", 3)])
def test_small_resnets_differ_in_the_stem_alone(arch: str, blocks: int) -> None:
    small, plain = on_meta(f"{arch}_small", 64), on_meta(arch, 64)
    shapes, others = ({name: value.shape for name, value in made.state_dict().items()} for made in (small, plain))
    assert shapes.keys() == others.keys()
    assert {name for name in shapes if shapes[name] != others[name]} == {"conv1.weight"}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert isinstance(small.maxpool, nn.Identity)
    assert len(small.layer1) == blocks  # type: ignore[arg-type]


def test_names_of_timms_and_torchvisions_are_told_apart() -> None:
    both = ("mobilenetv2_100", "swin_tiny_patch4_window7_224", "vit_base_patch16_224", "resnet18", "convnet3")
    canonical = [networks.canonical(arch) for arch in both]
    assert canonical == ["mobilenet_v2", "swin_t", "vit_b_16", "resnet18", "convnet3"]
    asked = ("resnet18", "swin_v2_t", "googlenet", "resnet18d", "resnet18.a1_in1k", "fasterrcnn_resnet50_fpn")
    assert [networks.known_to_torchvision(arch) for arch in asked] == [True, True, False, False, False, False]
    asked = ("resnet18", "swin_v2_t", "resnet18d", "resnet18.a1_in1k", "resnet18.nosuch", "nosuchnet")
    assert [networks.known_to_timm(arch) for arch in asked] == [True, False, True, True, False, False]


def test_names_tell_students_apart() -> None:
    students = [Student(arch="convnet3"), Student(arch="convnet3", width=32), Student(arch="resnet18", lr=2e-3)]
    assert [networks.name(student) for student in students] == ["convnet3", "convnet3-w32", "resnet18-lr0.002"]
