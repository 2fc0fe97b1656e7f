"""A GPU whose memory does not suffice for a micro-batch gets smaller ones, and gives the same scores."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddps_ray.config import Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.scorer import Item, Scored, Scorer


def _limit(network: nn.Module, most: int) -> list[int]:
    """Stands in for a small GPU: the network has memory for `most` inputs. Returns the list of what it was given."""
    given: list[int] = []

    def check(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        given.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

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


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_no_room_for_a_single_one_is_raised(tiny_sd: Path, part: str) -> None:
    loaded = _loaded(tiny_sd)
    given = _limit(loaded.unet if part == "unet" else loaded.vae.encoder, 1 if part == "unet" else 0)
    with pytest.raises(torch.OutOfMemoryError):
        _scorer(loaded).score(_items())
    assert given[-1] == (2 if part == "unet" else 1)
