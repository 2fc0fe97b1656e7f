"""The score is what the equations say, whatever else is in the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from ddps_ray.config import Model, Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.noise import draw_noise, draw_pairs
from ddps_ray.diffusion.scorer import Item, Scored, Scorer
from ddps_ray.errors import UserError

SETTINGS = Score(size=64, patch=32, pairs=3, micro_batch=10)
SEED = 7


@pytest.fixture(scope="module")
def scorer(tiny_sd: Path) -> Scorer:
    return Scorer(checkpoints.load(tiny_sd, "float32", torch.device("cpu")), SETTINGS, SEED)


def _items() -> list[Item]:
    random = np.random.default_rng(0)
    sizes = [(64, 64), (64, 96), (88, 64), (64, 64), (64, 96)]
    names = ["leaf", "fish", "leaf", "gem", "dice"]
    return [
        Item(f"train/{name}/{place}.png", name, random.integers(0, 256, (*size, 3), np.uint8))
        for place, (size, name) in enumerate(zip(sizes, names, strict=True))
    ]


def _plain_typicality(folder: Path, item: Item) -> tuple[np.ndarray, tuple[int, int]]:
    """T from the equations alone, in plain loops, with diffusers' own pipeline: map, and best window's corner."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pixels = torch.tensor(item.pixels_HWC).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latent = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
        words = []
        for prompt in ("An image of .", f"An image of {item.class_text}"):
            tokens = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
            words.append(pipe.text_encoder(tokens)[0])
        noise, steps = draw_pairs(SEED, item.image_id, SETTINGS.pairs, SETTINGS.timesteps, latent.shape[1:])
        total = np.zeros(latent.shape[2:])
        for epsilon, t in zip(noise, steps, strict=True):
            noisy = scheduler.add_noise(latent, epsilon[None], t[None])
            without, with_class = (pipe.unet(noisy, t, word).sample[0] for word in words)
            for row in range(total.shape[0]):
                for column in range(total.shape[1]):
                    loss_null = loss_class = 0.0
                    for channel in range(latent.shape[1]):
                        truth = float(epsilon[channel, row, column])
                        loss_null += (float(without[channel, row, column]) - truth) ** 2
                        loss_class += (float(with_class[channel, row, column]) - truth) ** 2
                    total[row, column] += (loss_null - loss_class) / latent.shape[1]
    map_hw = total / SETTINGS.pairs
    corners = [(r, c) for r in range(map_hw.shape[0] - 7) for c in range(map_hw.shape[1] - 7)]
    return map_hw, max(corners, key=lambda at: map_hw[at[0] : at[0] + 8, at[1] : at[1] + 8].mean())


def test_typicality_is_that_of_the_equations(scorer: Scorer, tiny_sd: Path) -> None:
    items = _items()
    for item, scored in zip(items, scorer.score(items), strict=True):
        map_hw, corner = _plain_typicality(tiny_sd, item)
        np.testing.assert_allclose(scored.map_HW, map_hw, atol=1e-4)
        assert np.abs(map_hw).max() > 1e-3  # the agreement is not that of zeros
        assert (scored.patch.row, scored.patch.column) == corner
        assert scored.image_typicality == pytest.approx(map_hw.mean(), abs=1e-4)
        window = map_hw[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8]
        assert scored.patch.typicality == pytest.approx(window.mean(), abs=1e-4)


def _assert_same(one: Scored, other: Scored) -> None:
    np.testing.assert_allclose(one.terms_NHW, other.terms_NHW, atol=1e-5)
    np.testing.assert_allclose(one.dift_D, other.dift_D, atol=1e-5)
    assert (one.patch.row, one.patch.column) == (other.patch.row, other.patch.column)


def test_a_score_does_not_depend_on_the_batch_or_its_order(scorer: Scorer) -> None:
    items = _items()
    together = scorer.score(items)
    backwards = scorer.score(items[::-1])[::-1]
    alone = [scorer.score([item])[0] for item in items]
    for one, other, third in zip(together, backwards, alone, strict=True):
        _assert_same(one, other)
        _assert_same(one, third)


def test_more_pairs_begin_with_the_same_pairs() -> None:
    few, many = (draw_pairs(1, "a", pairs, (100, 700), (4, 8, 8)) for pairs in (3, 10))
    assert torch.equal(few[0], many[0][:3])
    assert torch.equal(few[1], many[1][:3])
    assert many[1].min() >= 100
    assert many[1].max() < 700


def test_noise_belongs_to_the_image_the_seed_and_the_purpose() -> None:
    shape = (4, 8, 8)
    drawn = [draw_noise(0, "a", shape), draw_noise(0, "b", shape), draw_noise(1, "a", shape)]
    drawn.append(draw_pairs(0, "a", 1, (100, 700), shape)[0][0])
    for place, noise in enumerate(drawn):
        assert not any(torch.equal(noise, other) for other in drawn[:place])
    assert torch.equal(drawn[0], draw_noise(0, "a", shape))


def test_feature_is_the_hooked_block_of_the_cropped_patch(scorer: Scorer, tiny_sd: Path) -> None:
    item = _items()[1]
    scored = scorer.score([item])[0]
    top, left = scored.patch.row * 4, scored.patch.column * 4
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    seen = []
    pipe.unet.up_blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    cut = torch.tensor(item.pixels_HWC[top : top + 32, left : left + 32]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latent = pipe.vae.encode(cut).latent_dist.mode() * pipe.vae.config.scaling_factor
        noise = draw_noise(SEED, item.image_id, latent.shape[1:])[None]
        noisy = pipe.scheduler.add_noise(latent, noise, torch.tensor([161]))
        tokens = pipe.tokenizer(f"An image of {item.class_text}", padding="max_length", return_tensors="pt").input_ids
        pipe.unet(noisy, 161, pipe.text_encoder(tokens)[0])
    np.testing.assert_allclose(scored.dift_D, seen[0][0].mean((1, 2)).numpy(), atol=1e-5)


@pytest.mark.parametrize("dift_input", ["patch", "image"])
def test_full_patch_is_the_whole_image(tiny_sd: Path, dift_input: str) -> None:
    settings = SETTINGS.model_copy(update={"patch": "full", "dift_input": dift_input})
    scorer = Scorer(checkpoints.load(tiny_sd, "float32", torch.device("cpu")), settings, SEED)
    for item, scored in zip(_items(), scorer.score(_items()), strict=True):
        assert (scored.patch.row, scored.patch.column) == (0, 0)
        assert (scored.patch.height * 4, scored.patch.width * 4) == item.pixels_HWC.shape[:2]
        assert scored.patch.typicality == pytest.approx(scored.image_typicality, abs=1e-6)
        assert scored.dift_D.shape == (8,)


def test_velocity_is_turned_into_noise(tiny_sd: Path) -> None:
    loaded = checkpoints.load(tiny_sd, "float32", torch.device("cpu"))
    velocity = checkpoints.Checkpoint(**{**vars(loaded), "predicts_velocity": True})
    latent, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([150, 600])
    alpha = loaded.alphas_cumprod_T[steps].view(2, 1, 1, 1)
    truth = alpha.sqrt() * noise - (1 - alpha).sqrt() * latent
    recovered = velocity.noise_of(truth, velocity.add_noise(latent, noise, steps), steps)
    torch.testing.assert_close(recovered, noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "key"), [({"size": 66}, "score.size"), ({"patch": 30}, "score.patch"), ({"dift_block": 2}, "dift_block")]
)
def test_settings_that_do_not_suit_the_model_are_named(tiny_sd: Path, change: dict[str, int], key: str) -> None:
    loaded = checkpoints.load(tiny_sd, "float32", torch.device("cpu"))
    with pytest.raises(UserError, match=key):
        Scorer(loaded, SETTINGS.model_copy(update=change), SEED)


def test_a_folder_that_is_no_stable_diffusion_is_named(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(UserError, match=r"model\.path: .* is not a diffusers Stable Diffusion: it has no vae folder"):
        checkpoints.locate(Model(path=str(tmp_path)), "")
