"""Operations and traffic of a training, worked out by hand."""

import pytest

from ddps_ray.config import Evaluate, Network, Student
from ddps_ray.gpus import Card
from ddps_ray.students import costs
from ddps_ray.students.protocols import Facts, resolve

CONVNET = Network(arch="convnet3")
# Two for each multiplication: kernels of 3×3 at 32, 16 and 8 px, and the linear layer on 4×4 positions.
FLOPS = 2 * 128 * 9 * (32**2 * 3 + 16**2 * 128 + 8**2 * 128) + 2 * 10 * 128 * 4**2
# As in test_memory, of one image, without what does not grow with the batch.
SAVED = 4 * (3 * 32**2 + sum(128 * (2 * side**2 + (side // 2) ** 2) for side in (32, 16, 8)))


def test_a_forward_pass_and_a_step() -> None:
    assert costs.forward_flops(CONVNET, 10, 32) == FLOPS == 101_490_688
    forward = costs.forward(CONVNET, 10, 32, "float32")
    assert forward == costs.Cost(FLOPS, costs.FORWARD_TRAFFIC * SAVED)
    assert costs.step(CONVNET, None, 10, 32, "float32") == costs.Cost(3 * FLOPS, costs.STEP_TRAFFIC * SAVED)
    taught = costs.step(CONVNET, CONVNET, 10, 32, "float32")
    assert taught == costs.Cost(4 * FLOPS, (costs.STEP_TRAFFIC + costs.FORWARD_TRAFFIC) * SAVED)


def test_a_training_is_its_steps_and_six_validations() -> None:
    facts = Facts(ipc=50, classes=1000, images=50_000, mosaic=False, size=32, layout="imagenet", teacher="resnet18")
    protocol = resolve("rded", Evaluate(), facts, Student(arch="convnet3"))
    assert costs.steps(protocol, 50_000) == 75_000
    assert costs.steps(protocol, 50_001) == 75_300
    whole = costs.training(CONVNET, CONVNET, protocol, 50_000, 10_000, 10, 32, "float32")
    assert whole.flops == FLOPS * (4 * 300 * 50_000 + 6 * 10_000)
    # Three blocks of convolution, BatchNorm, its count of batches, ReLU and pooling; a copy and the linear layer: once
    # by the teacher, by the student there and back, however small the batch is.
    assert whole.launches == 75_000 * 3 * (3 * 5 + 2)
    # Two workers halve the steps; one of them validates.
    halved = costs.training(CONVNET, CONVNET, protocol, 50_000, 10_000, 10, 32, "float32", workers=2)
    assert halved.flops == FLOPS * (4 * 300 * 25_000 + 6 * 10_000)
    assert halved.launches == whole.launches


@pytest.mark.parametrize(
    ("dtype", "flops", "traffic", "launches", "hours"),
    [
        ("bfloat16", 121e12 * 0.5 * 7200, 0, 0, 2.0),
        ("float32", 30.3e12 * 0.5 * 7200, 0, 0, 2.0),
        ("bfloat16", 1.0, 300e9 * costs.BANDWIDTH_SHARE * 10_800, 0, 3.0),
        ("bfloat16", 1.0, 1.0, 14_400 / costs.LAUNCH_SECONDS, 4.0),
    ],
)
def test_time_is_that_of_operations_of_memory_or_of_launches(
    dtype: str, flops: float, traffic: float, launches: float, hours: float
) -> None:
    assert costs.Cost(flops, traffic, launches).hours(Card("l4", "L4", 22.0, 300), dtype, 0.5) == pytest.approx(hours)
