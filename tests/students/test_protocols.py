"""Presets against the values of the code that each comes from."""

import pytest

from ddps_ray.config import Evaluate, Student
from ddps_ray.students import protocols
from ddps_ray.students.protocols import Facts, Protocol


def facts(ipc: int = 10, classes: int = 10, mosaic: bool = True, size: int = 224, layout: str = "imagefolder") -> Facts:
    return Facts(ipc, classes, ipc * classes, mosaic, size, layout, "resnet18")


def made(preset: str, about: Facts, arch: str = "resnet18", lr: float | None = None, **settings: object) -> Protocol:
    return protocols.resolve(preset, Evaluate.model_validate(settings), about, Student(arch=arch, lr=lr))


@pytest.mark.parametrize(
    ("layout", "classes", "sizes"),
    [
        ("imagefolder", 10, (10, 10, 50, 50, 100)),
        ("imagenet", 100, (20, 20, 100, 100, 200)),
        ("imagenet", 200, (20, 20, 100, 100, 200)),
        ("tiny-imagenet", 200, (100,) * 5),
        ("tiny-imagenet", 10, (100,) * 5),
    ],
)
def test_rdeds_batch_sizes_go_by_ipc_classes_and_data_set(layout: str, classes: int, sizes: tuple[int, ...]) -> None:
    assert tuple(protocols.rded_batch(facts(ipc, classes, layout=layout)) for ipc in (1, 9, 10, 49, 50)) == sizes


@pytest.mark.parametrize(
    ("arch", "rate"),
    [
        ("resnet18", 1e-3),
        ("convnet4", 1e-3),
        ("resnet101_small", 1e-3),
        ("efficientnet_b0", 2e-3),
        ("mobilenet_v2", 2.5e-3),
        ("mobilenetv2_100", 2.5e-3),
        ("swin_v2_t", 1e-4),
        ("swin_tiny_patch4_window7_224", 1e-4),
        ("vit_b_16", 1e-4),
        ("deit_base_patch16_224", 1e-4),
        ("vgg11", 5e-4),
        ("alexnet", 1e-4),
    ],
)
def test_rdeds_learning_rates(arch: str, rate: float) -> None:
    assert made("rded", facts(), arch).lr == rate
    assert made("rded", facts(), arch, lr=0.5).lr == 0.5


def test_rdeds_validations_are_six_of_three_hundred() -> None:
    assert protocols.last_fifth(300) == (250, 260, 270, 280, 290, 300)
    assert [protocols.last_fifth(epochs) for epochs in (1, 7, 50)] == [(1,), (7,), (50,)]
    assert protocols.last_fifth(55) == (50, 55)
    assert made("rded", facts()).validations == (250, 260, 270, 280, 290, 300)


def test_rded_has_a_rule_of_its_own_for_cifar_100_with_convnet_3() -> None:
    small = Facts(10, 100, 1000, True, 32, "cifar100", "convnet3")
    assert (made("rded", small, "convnet3").batch, made("rded", small, "convnet3").lr) == (25, 2e-3)
    assert (made("rded", small, "resnet18_small").batch, made("rded", small, "resnet18_small").lr) == (100, 1e-3)


@pytest.mark.parametrize(
    ("mosaic", "size", "scale"),
    [(True, 224, (0.5, 1.0)), (True, 64, (0.5, 1.0)), (False, 224, (0.5, 1.0)), (False, 64, (1.0, 1.0))],
)
def test_crops_go_by_composition_and_size(mosaic: bool, size: int, scale: tuple[float, float]) -> None:
    about = facts(mosaic=mosaic, size=size)
    assert made("rded", about).crop_scale == scale
    assert made("rded", about).shuffle == mosaic
    assert made("rded", about, crop_scale=[0.08, 1]).crop_scale == (0.08, 1.0)


def test_a_batch_is_never_more_than_the_set() -> None:
    assert made("fkd", facts(ipc=1)).batch == 10
    assert made("fkd", facts(ipc=50, classes=1000)).batch == 1024
    assert made("hard", facts(ipc=1), batch=64).batch == 10


@pytest.mark.parametrize(
    ("ipc", "classes", "epochs"),
    [
        (1, 10, 3000),
        (10, 10, 2000),
        (20, 10, 1500),
        (50, 10, 1500),
        (100, 10, 1000),
        (10, 100, 1300),
        (50, 100, 1000),
        (10, 101, 2000),
        (50, 1000, 1500),
    ],
)
def test_minimaxs_epochs(ipc: int, classes: int, epochs: int) -> None:
    assert made("minimax", facts(ipc, classes)).epochs == epochs


@pytest.mark.parametrize(("classes", "expected"), [(100, (64, 0.01, 5e-4)), (101, (128, 0.1, 1e-4))])
def test_minimax_has_another_step_above_a_hundred_classes(classes: int, expected: tuple[float, ...]) -> None:
    found = made("minimax", facts(50, classes))
    assert (found.batch, found.lr, found.weight_decay) == expected


def test_presets_differ_as_their_sources_do() -> None:
    about = facts(ipc=50, classes=1000)
    fkd, edc, minimax, hard = (made(preset, about) for preset in ("fkd", "edc", "minimax", "hard"))
    assert (fkd.schedule, fkd.crop_scale, fkd.loss, fkd.temperature) == ("cosine", (0.08, 1.0), "kl", 20)
    assert (edc.batch, edc.loss, edc.ema, edc.schedule) == (100, "mse", 0.99, "half-cosine")
    assert (minimax.optimiser, minimax.colour, minimax.loss, minimax.schedule) == ("sgd", True, "ce", "steps")
    assert minimax.decay_all
    assert (hard.batch, hard.lr, hard.weight_decay, hard.cutmix, hard.epochs) == (128, 1e-3, 0.01, False, 300)
    assert [each.teacher for each in (fkd, edc, minimax, hard)] == [True, True, False, False]
    taught = {name for name in protocols.PRESETS if protocols.needs_teacher(name)}
    assert taught == {"rded", "fkd", "edc"}


def test_what_the_recipe_says_wins() -> None:
    said = made("fkd", facts(), epochs=7, temperature=4, weight_decay=0, cutmix=False, ema=0.5, batch=3)
    found = (said.epochs, said.temperature, said.weight_decay, said.cutmix, said.ema, said.batch)
    assert found == (7, 4, 0, False, 0.5, 3)
    assert made("edc", facts(), ema=0).ema == 0
    assert said.validations == (7,)


@pytest.mark.parametrize("preset", ["edc", "minimax", "hard", "given"])
def test_a_temperature_changes_nothing_where_the_loss_has_none(preset: str) -> None:
    assert made(preset, facts(), temperature=4) == made(preset, facts())
    assert made(preset, facts()).temperature == 1
