"""What a student needs of a GPU's memory, worked out by hand, and beside a real forward pass."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ddps_ray.config import Evaluate, Network, Student
from ddps_ray.errors import UserError
from ddps_ray.students import memory, networks
from ddps_ray.students.protocols import Facts, Protocol, resolve

CONVNET = Student(arch="convnet3")
FACTS = Facts(ipc=10, classes=10, images=1000, mosaic=False, size=32, layout="cifar10", teacher=None)
OF_8 = resolve("hard", Evaluate(batch=8), FACTS, CONVNET)

# Eight images of 32 px through three blocks of 128 channels: each saves the convolution's output (for BatchNorm), the
# ReLU's (in place of BatchNorm's), mean and inverse deviation, and what pooling hands on to the next layer.
IMAGES = 8 * 3 * 32**2
BLOCKS = sum(8 * 128 * (2 * side**2 + (side // 2) ** 2) for side in (32, 16, 8))
STATISTICS = 3 * 2 * 128
SAVED = 4 * (IMAGES + BLOCKS + STATISTICS)
LARGEST = 4 * 8 * 128 * 32**2
KERNELS = 128 * 9 * (3 + 128 + 128) + 10 * 128 * 4**2
WEIGHTS = 4 * (KERNELS + 3 * 3 * 128 + 10)  # with biases, and BatchNorm's scale and shift
BUFFERS = 3 * (2 * 128 * 4 + 8)
PICTURES = IMAGES * (4 + 4 + 1)


def _needed(protocol: Protocol, teacher: Network | None = None, workers: int = 1, parts: int = 1) -> int:
    return memory.needed(CONVNET, teacher, protocol, 32, 10, "float32", workers, parts)


def test_what_a_convnet_saves_by_hand() -> None:
    assert SAVED == 12_487_680
    assert memory.footprint(CONVNET, 10, 32, 8, "float32") == memory.Footprint(
        tensors=WEIGHTS + BUFFERS, trainable=WEIGHTS, saved=SAVED, largest=LARGEST
    )


def test_a_real_forward_pass_saves_as_much() -> None:
    network = networks.build(CONVNET, 10, 32).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(8, 3, 32, 32))
    assert sum(tensor.untyped_storage().nbytes() for tensor in held.values()) == SAVED


def test_autocast_halves_activations_and_adds_a_copy_of_the_kernels() -> None:
    by_hand = 2 * (IMAGES + BLOCKS) + 4 * STATISTICS + 2 * KERNELS
    assert memory.saved_bytes(CONVNET, 10, 32, 8, "bfloat16") == pytest.approx(by_hand, rel=1e-3)


def test_the_resnet_101_that_does_not_fit_an_l4() -> None:
    gib = memory.saved_bytes(Network(arch="resnet101"), 1000, 224, 200, "float32") / 2**30
    assert 23.5 < gib < 23.8


def test_attention_is_not_kept() -> None:
    # 32 px in patches of 16: five tokens with the class's; 224 px: 197. Weights of attention would grow by (197/5)².
    small, large = (memory.saved_bytes(Network(arch="vit_b_16"), 10, size, 2, "float32") for size in (32, 224))
    assert large / small < 1.02 * 197 / 5


def test_layer_norm_keeps_float32_under_autocast() -> None:
    swin = Network(arch="swin_t")
    half, single = (memory.saved_bytes(swin, 10, 224, 50, dtype) for dtype in ("bfloat16", "float32"))
    assert 0.6 < half / single < 0.9


def test_what_a_gpu_does_one_after_the_other_by_hand() -> None:
    # Blocks of convolution, BatchNorm, its count of batches, ReLU and pooling; a copy in a line, and the linear layer.
    assert memory.operations(CONVNET, 10, 32) == 3 * 5 + 2
    # Twenty convolutions and BatchNorms with their counts, 17 ReLUs, 8 sums, two poolings and the linear layer.
    assert memory.operations(Network(arch="resnet18"), 10, 224) == 3 * 20 + 17 + 8 + 2 + 1


def test_what_a_step_needs_by_hand() -> None:
    # Gradients and AdamW's two moments.
    alone = WEIGHTS + BUFFERS + 3 * WEIGHTS + SAVED + LARGEST + PICTURES + memory.RESERVE
    assert _needed(OF_8) == alone
    assert _needed(replace(OF_8, optimiser="sgd")) == alone - WEIGHTS
    assert _needed(replace(OF_8, ema=0.99)) == alone + WEIGHTS + BUFFERS
    # Two workers have half a batch each, and the buckets in which gradients are exchanged.
    assert _needed(replace(OF_8, batch=16), workers=2) == alone + WEIGHTS
    assert _needed(replace(OF_8, batch=16), parts=2) == alone
    # The teacher holds a convolution's output and BatchNorm's at a time.
    assert _needed(OF_8, Network(arch="convnet3")) == alone + WEIGHTS + BUFFERS + 2 * LARGEST


def test_a_batch_is_cut_until_it_fits() -> None:
    def parts(available: int, batch: int = 8) -> int:
        return memory.accumulation(CONVNET, None, replace(OF_8, batch=batch), 32, 10, "float32", 1, available)

    whole, halves, quarters = (_needed(OF_8, parts=parts) for parts in (1, 2, 4))
    assert [parts(whole), parts(whole - 1), parts(halves), parts(halves - 1), parts(quarters)] == [1, 2, 2, 3, 4]
    with pytest.raises(
        UserError, match=r"^evaluate\.students: convnet3 at 32 px needs 1\.0 GiB for 2 images at a time"
    ):
        parts(quarters - 1)
    assert parts(quarters - 1, batch=1) == 1
    with pytest.raises(UserError, match="for 3 images at a time"):  # five are two and three: BatchNorm needs two
        parts(quarters, batch=5)


@pytest.mark.parametrize("arch", ["swin_v2_t", "convnext_tiny", "deit_tiny_patch16_224", "densenet121"])
def test_networks_of_other_kinds_are_measured_too(arch: str) -> None:
    two, four = (memory.saved_bytes(Network(arch=arch), 10, 224, batch, "bfloat16") for batch in (2, 4))
    assert 1 < four / two <= 2
    assert memory.inference_bytes(Network(arch=arch), 10, 224, 2, "bfloat16") < two
