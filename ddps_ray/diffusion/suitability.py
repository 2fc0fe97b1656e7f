"""Whether a model, the settings and the class names suit each other, by configuration and tokenizer alone."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ddps_ray.config import Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.checkpoint import Geometry
from ddps_ray.diffusion.layout import read_json
from ddps_ray.diffusion.prompts import longest
from ddps_ray.errors import UserError


def check(geometry: Geometry, settings: Score) -> None:
    """Checks that settings suit a model's shapes.

    Raises:
        UserError: They do not; the message names the key.
    """
    factor, blocks = geometry.factor, len(geometry.feature_sizes)
    if settings.size % factor:
        raise UserError(f"score.size: {settings.size} is not a multiple of {factor}, the VAE's scale factor")
    if settings.patch != "full" and settings.patch % factor:
        raise UserError(f"score.patch: {settings.patch} is not a multiple of {factor}, the VAE's scale factor")
    if settings.dift_block >= blocks:
        raise UserError(
            f"score.dift_block: {settings.dift_block} asked, but the U-Net's {blocks} up-blocks count from 0"
        )


def doubts(folder: Path, settings: Score, texts: Mapping[str, str]) -> list[str]:
    """Says what can be meant, and mostly is not: one line each.

    Args:
        folder: A located checkpoint; its weights need not be there.
        settings: Settings of the scoring.
        texts: What the prompt calls each class id.

    Raises:
        UserError: The settings do not suit the model, or a class is cut off from its prompt.
    """
    geometry = checkpoints.geometry(folder)
    check(geometry, settings)
    return [*_of_size(geometry, settings), *_of_null_prompt(settings), *_of_prompts(folder, settings, texts)]


def _of_size(geometry: Geometry, settings: Score) -> Iterator[str]:
    trained = geometry.trained_size
    if trained is not None and not trained / 2 <= settings.size <= trained:
        yield (
            f"score.size: {settings.size} px, but the model was trained at {trained} px: it knows things of the size "
            f"that they have there; {trained // 2} to {trained} px suit it"
        )


def _of_null_prompt(settings: Score) -> Iterator[str]:
    default = Score()
    if settings.prompt != default.prompt and settings.null_prompt == default.null_prompt:
        without = settings.prompt.replace("{}", "").strip()
        yield (
            f"score.null_prompt: still {settings.null_prompt!r}, while score.prompt is {settings.prompt!r}: usually "
            f"they differ in the class alone, e.g. {without!r}"
        )


def _of_prompts(folder: Path, settings: Score, texts: Mapping[str, str]) -> Iterator[str]:
    tokenizer = checkpoints.tokenizer(folder)
    most = longest(tokenizer, read_json(folder, "text_encoder/config.json")["max_position_embeddings"])
    before, _, _ = settings.prompt.partition("{}")
    whole = [settings.prompt.replace("{}", text) for text in texts.values()]
    upto = [before + text for text in texts.values()]
    tokens: Sequence[list[int]] = tokenizer([*whole, *upto], verbose=False).input_ids  # it would warn
    count = len(texts)
    for (class_id, text), words in zip(texts.items(), tokens[count:], strict=True):
        if len(words) > most:
            raise UserError(
                f"score.prompt: the text encoder reads {most} tokens, and up to the end of the class's name {text!r} "
                f"({class_id}) there are {len(words)}: shorten the prompt, or the name by data.classes"
            )
    cut = [text for text, words in zip(texts.values(), tokens[:count], strict=True) if len(words) > most]
    if cut:
        yield f"score.prompt: the end of the prompt is cut off after {most} tokens, in {len(cut)} classes: {cut[0]!r}"
    same: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for text, words in zip(texts.values(), tokens[:count], strict=True):
        same[tuple(words)].add(text)
    for alike in same.values():
        if len(alike) > 1:
            yield f"classes called {' and '.join(map(repr, sorted(alike)))} have the same prompt to the text encoder"
