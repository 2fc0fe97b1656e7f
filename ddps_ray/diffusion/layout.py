"""The layout of a Stable Diffusion checkpoint: which of its files are loaded, and whether it is of a supported kind."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from ddps_ray.errors import UserError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Folders of a checkpoint that are loaded."""

INDEX = "model_index.json"
"""Names the pipeline and its parts."""

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_BESIDES = ("text_encoder_2", "transformer")
_CONDITIONS = {"addition_embed_type": (None, "text"), "class_embed_type": (None,), "encoder_hid_dim_type": (None,)}
_PREDICTIONS = ("epsilon", "v_prediction")
_SUPPORTED = "Stable Diffusion 1.x and 2.x are supported"


def is_loaded(path: str, weights: bool = True) -> bool:
    """Says whether a file is read when the checkpoint is loaded: configurations, vocabulary, and one set of weights.

    Half-precision and non-EMA variants, other formats of the same weights, and other parts are not.

    Args:
        path: Its path inside the checkpoint, e.g. `unet/config.json`.
        weights: Whether weights count; without them the rest says what the model is.
    """
    part, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
    if part not in PARTS or name.startswith("."):
        return path == INDEX
    if ".index." in name:
        return weights and name == f"{_STEMS.get(part)}.safetensors.index.json"
    return name.endswith((".json", ".txt")) or (weights and _is_weights(part, name))


def patterns(weights: bool = True) -> list[str]:
    """What `is_loaded` says, as glob patterns for a download."""
    found = [INDEX, *(f"{part}/*.json" for part in PARTS), "tokenizer/*.txt"]
    if weights:
        found += [f"{part}/{stem}{shard}.safetensors" for part, stem in _STEMS.items() for shard in ("", "-*-of-*")]
    return found


def check_kind(index: bytes, place: str) -> None:
    """Checks, before anything large is fetched, that a checkpoint is a Stable Diffusion of a supported kind.

    Args:
        index: Contents of its `model_index.json`.
        place: Where it is.

    Raises:
        UserError: It is not; the message names what it is.
    """
    names = _parsed(index, f"{place}: {INDEX}")
    kinds = {part: value[1] for part, value in names.items() if isinstance(value, list) and len(value) == 2}
    absent = any(kinds.get(part) is None for part in PARTS)
    foreign = any(kinds.get(part) not in (None, kind) for part, kind in _CLASSES.items())
    if absent or foreign or any(kinds.get(part) for part in _BESIDES):
        raise UserError(f"model.path: {place} is a {names.get('_class_name')}; {_SUPPORTED}")


def check_layout(folder: Path, weights: bool = True) -> None:
    """Checks that a folder holds all that is loaded, of a supported kind.

    Args:
        folder: The checkpoint.
        weights: Whether its weights must be there.

    Raises:
        UserError: It does not; the message names what is absent or not supported.
    """
    if snapshots := sorted(path.name for path in (folder / "snapshots").glob("*") if path.is_dir()):
        raise UserError(
            f"model.path: {folder} is a folder of the Hub's cache: name {folder}/snapshots/{snapshots[-1]}, or the "
            "model as the Hub calls it"
        )
    if (folder / INDEX).is_file():
        check_kind((folder / INDEX).read_bytes(), str(folder))
    for part in (*PARTS, INDEX):
        if not (folder / part).exists():
            what = f"{part} folder" if part in PARTS else part
            raise UserError(f"model.path: {folder} is not a diffusers Stable Diffusion: it has no {what}")
    _check_configuration(folder)
    if not any(all((folder / "tokenizer" / name).is_file() for name in names) for names in _VOCABULARIES):
        # The library makes an empty vocabulary of it, in which all prompts are the same.
        raise UserError(f"model.path: {folder}/tokenizer has neither tokenizer.json nor vocab.json with merges.txt")
    for part in _STEMS:
        read_json(folder, f"{part}/config.json")
        if weights:
            _check_weights(folder, part)


def _check_weights(folder: Path, part: str) -> None:
    """Checks that the weights of a part are there: one file, or all the numbered shares that an index names.

    Raises:
        UserError: They are not.
    """
    whole = f"{part}/{_STEMS[part]}.safetensors"
    index = f"{whole}.index.json"
    if not (folder / index).is_file():
        if not (folder / whole).is_file():
            raise UserError(f"model.path: {folder} has no {whole}; no other format or variant is read")
        return
    shares = read_json(folder, index).get("weight_map")
    if not isinstance(shares, dict) or not shares:
        raise UserError(f"model.path: {folder / index} has no weight_map")
    for name in sorted(set(map(str, shares.values()))):
        if not (folder / part / name).is_file():
            raise UserError(f"model.path: {folder} has no {part}/{name}, which {index} names")


def _check_configuration(folder: Path) -> None:
    unet, vae = read_json(folder, "unet/config.json"), read_json(folder, "vae/config.json")
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    kind = read_json(folder, INDEX).get("_class_name")
    if unet.get("in_channels") != vae.get("latent_channels"):
        raise UserError(
            f"model.path: {folder} is a {kind}: its U-Net takes {unet.get('in_channels')} channels, its VAE gives "
            f"{vae.get('latent_channels')}; inpainting and the like are not supported"
        )
    for key, known in _CONDITIONS.items():
        if unet.get(key) not in known:
            raise UserError(f"model.path: {folder} is a {kind} with {key} {unet[key]!r}; {_SUPPORTED}")
    if (prediction := scheduler.get("prediction_type", "epsilon")) not in _PREDICTIONS:
        raise UserError(f"model.path: {folder} predicts {prediction}; {' and '.join(_PREDICTIONS)} are supported")


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """Reads a configuration file of a checkpoint.

    Raises:
        UserError: It cannot be read, or is no JSON object.
    """
    try:
        return _parsed((folder / file).read_bytes(), str(folder / file))
    except OSError as error:
        raise UserError(f"model.path: {folder / file}: {error.strerror}") from error


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise UserError(f"model.path: {name} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"model.path: {name} is not a JSON object")
    return values


def _is_weights(part: str, name: str) -> bool:
    """Says whether a file holds the weights, or, of a large model, a numbered share of them."""
    return part in _STEMS and re.fullmatch(rf"{_STEMS[part]}(-\d+-of-\d+)?\.safetensors", name) is not None
