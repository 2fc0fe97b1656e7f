"""A GPU whose memory does not suffice for a micro-batch gets smaller ones, and gives the same scores."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddps_ray.config import Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.micro_batch import gpu_failed
from ddps_ray.diffusion.scorer import Item, Scored, Scorer
from ddps_ray.errors import UserError

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


def _limit(network: nn.Module, most: int, error: RuntimeError = OUT_OF_MEMORY[0]) -> list[int]:
    """Stands in for a small GPU: the network has memory for `most` inputs. Returns the list of what it was given."""
    given: list[int] = []

    def check(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        given.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise error

    network.register_forward_pre_hook(check)
    return given


def _loaded(tiny_sd: Path) -> checkpoints.Checkpoint:
    return checkpoints.load(tiny_sd, "float32", torch.device("cpu"))


def _scorer(loaded: checkpoints.Checkpoint, dift_input: str = "patch", micro_batch: int = 64) -> Scorer:
    settings = Score(size=64, patch=32, pairs=3, micro_batch=micro_batch, dift_input=dift_input)
    return Scorer(loaded, settings, 0)


def _items() -> list[Item]:
    random = np.random.default_rng(0)
    sizes = [(64, 64), (64, 80), (64, 64), (64, 64), (64, 64), (64, 64)]
    return [
        Item(str(at), ("leaf", "fish")[at % 2], random.integers(0, 256, (*size, 3), np.uint8))
        for at, size in enumerate(sizes)
    ]


def _assert_same(some: list[Scored], others: list[Scored]) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one.terms_NHW, other.terms_NHW, atol=1e-5)
        np.testing.assert_allclose(one.dift_D, other.dift_D, atol=1e-5)
        assert (one.patch.row, one.patch.column) == (other.patch.row, other.patch.column)


@pytest.mark.parametrize("dift_input", ["patch", "image"])
def test_scores_do_not_depend_on_the_micro_batch(tiny_sd: Path, dift_input: str) -> None:
    loaded = _loaded(tiny_sd)
    expected = _scorer(loaded, dift_input).score(_items())
    for micro_batch in (1, 3, 4):
        _assert_same(_scorer(loaded, dift_input, micro_batch).score(_items()), expected)


@pytest.mark.parametrize("dift_input", ["patch", "image"])
@pytest.mark.parametrize(("unet", "vae"), [(7, 99), (2, 99), (99, 2), (3, 1)])
def test_less_memory_gives_the_same_scores(tiny_sd: Path, dift_input: str, unet: int, vae: int) -> None:
    expected = _scorer(_loaded(tiny_sd), dift_input).score(_items())
    loaded = _loaded(tiny_sd)
    _limit(loaded.unet, unet)
    _limit(loaded.vae.encoder, vae)
    _assert_same(_scorer(loaded, dift_input).score(_items()), expected)


def test_what_fitted_is_kept_and_said_once(tiny_sd: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = _loaded(tiny_sd)
    given = _limit(loaded.unet, 7)
    scorer = _scorer(loaded)
    with caplog.at_level(logging.WARNING):
        scorer.score(_items())
    # Five images of one size with three pairs of two latents each: 30, 14, and 6 fits.
    assert given[:4] == [30, 14, 6, 6]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ddps_ray")] == [
        "out of GPU memory: from now on 6 inputs in one call of the U-Net"
    ]
    given.clear()
    caplog.clear()
    scorer.score(_items())
    assert max(given) == 6
    assert not caplog.records


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("part", ["U-Net", "VAE"])
def test_no_room_for_a_single_one_is_the_users_to_put_right(tiny_sd: Path, part: str, error: RuntimeError) -> None:
    loaded = _loaded(tiny_sd)
    given = _limit(loaded.unet if part == "U-Net" else loaded.vae.encoder, 1 if part == "U-Net" else 0, error)
    with pytest.raises(
        UserError, match=f"^score.micro_batch: not even one latent fits .* in a call of the {part}"
    ) as caught:
        _scorer(loaded).score(_items())
    assert str(error) in str(caught.value)
    assert given[-1] == (2 if part == "U-Net" else 1)


def test_a_library_that_gets_no_memory_is_given_less(tiny_sd: Path) -> None:
    expected = _scorer(_loaded(tiny_sd)).score(_items())
    loaded = _loaded(tiny_sd)
    given = _limit(loaded.unet, 7, OUT_OF_MEMORY[1])
    _assert_same(_scorer(loaded).score(_items()), expected)
    assert given[:3] == [30, 14, 6]


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"])
def test_another_failure_of_the_gpu_is_raised_and_known_as_one(tiny_sd: Path, said: str) -> None:
    loaded = _loaded(tiny_sd)
    given = _limit(loaded.unet, 0, RuntimeError(said))
    with pytest.raises(RuntimeError, match=said) as caught:
        _scorer(loaded).score(_items())
    assert given == [30], "and not tried with less"
    assert gpu_failed(caught.value)


def test_what_is_no_failure_of_the_gpu_is_not_taken_for_one() -> None:
    assert gpu_failed(torch.AcceleratorError("device-side assert triggered"))
    assert gpu_failed(RuntimeError("CUBLAS_STATUS_INTERNAL_ERROR when calling cublasSgemm"))
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ):
        assert not gpu_failed(error)
