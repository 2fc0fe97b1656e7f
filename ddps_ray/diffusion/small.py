"""A small latent diffusion model in the Stable Diffusion layout, untrained: what `ddps pretrain` trains."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ddps_ray.config import Pretrain
from ddps_ray.diffusion.checkpoint import Geometry

_START, _END, _WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_GROUPS = 8
_LONGEST_PROMPT = 77


@dataclass(frozen=True)
class Parts:
    """The five parts of a Stable Diffusion checkpoint."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler


def build(settings: Pretrain, prompts: Sequence[str]) -> Parts:
    """Builds a model with fresh weights (from torch's global generator) that has a word for each word of the prompts.

    The class reaches the U-Net twice: through cross-attention at its lowest level, where it is cheapest, and, pooled,
    with the time step (diffusers' `addition_embed_type="text"`), from which a small model learns it much sooner, and
    sooner still where that scales the features as well as shifting them.
    """
    tokenizer = train_tokenizer(prompts)
    vae_channels, unet_channels = settings.vae_channels, settings.unet_channels
    lower = len(unet_channels) - 1
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
        block_out_channels=vae_channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=_GROUPS,
        sample_size=settings.size,
    )
    unet = UNet2DConditionModel(
        sample_size=settings.size // 2 ** (len(vae_channels) - 1),
        in_channels=settings.latent_channels,
        out_channels=settings.latent_channels,
        down_block_types=("DownBlock2D",) * lower + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * lower,
        block_out_channels=unet_channels,
        layers_per_block=1,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,
        norm_num_groups=_GROUPS,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.text_width,
            intermediate_size=4 * settings.text_width,
            projection_dim=settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    return Parts(vae, unet, text_encoder, tokenizer, scheduler)


def geometry(settings: Pretrain) -> Geometry:
    """The shapes of the model that `build` makes."""
    return Geometry(
        2 ** (len(settings.vae_channels) - 1), tuple(reversed(settings.unet_channels)), trained_size=settings.size
    )


def train_tokenizer(prompts: Sequence[str]) -> CLIPTokenizer:
    """Makes a CLIP tokenizer whose byte pairs are merged up to the words of the prompts; it can spell all others."""
    pairs = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    pairs.normalizer = normalizers.Lowercase()
    pairs.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(end_of_word_suffix=_WORD_END, initial_alphabet=alphabet, show_progress=False)
    pairs.train_from_iterator(sorted(set(prompts)), trainer)
    merges = [tuple(merge) for merge in json.loads(pairs.to_str())["model"]["merges"]]
    words = [*alphabet, *(letter + _WORD_END for letter in alphabet), *("".join(merge) for merge in merges)]
    vocabulary = {word: index for index, word in enumerate([*dict.fromkeys(words), _START, _END])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    longest = max(len(tokenizer(prompt).input_ids) for prompt in prompts)
    tokenizer.model_max_length = min(_LONGEST_PROMPT, -(-longest // 8) * 8)
    return tokenizer
