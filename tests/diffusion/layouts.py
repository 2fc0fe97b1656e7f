"""The tiny model rewritten as published checkpoints are: older key names, files of other formats beside the weights."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

UNET, VAE, TEXT = (
    f"{part}.safetensors"
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
)
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def edit(file: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def sd1(tiny_sd: Path, folder: Path) -> Path:
    """The same model in the layout in which SD 1.4 and 1.5 were published in 2022."""
    shutil.copytree(tiny_sd, folder)
    vae = load_file(folder / VAE)
    for new, old in _OLD_ATTENTION.items():
        vae = {key.replace(f"mid_block.attentions.0.{new}", f"mid_block.attentions.0.{old}"): vae[key] for key in vae}
    save_file(vae, folder / VAE, {"format": "pt"})
    text = {f"text_model.{key}": value for key, value in load_file(folder / TEXT).items()}
    text["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    save_file(text, folder / TEXT, {"format": "pt"})
    _old_tokenizer(folder / "tokenizer", "<|endoftext|>")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    edit(scheduler, _class_name="PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=False, trained_betas=None)
    safety = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit(folder / "model_index.json", safety_checker=safety, feature_extractor=["transformers", "CLIPFeatureExtractor"])
    for part in ("safety_checker", "feature_extractor"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
    add_variants(folder)
    return folder


def add_variants(folder: Path) -> None:
    """Puts half-precision, non-EMA and pickled variants, of other values, beside the weights."""
    for file in (UNET, VAE, TEXT):
        weights = {key: torch.zeros_like(value) for key, value in load_file(folder / file).items()}
        name = Path(file).stem
        for other in (f"{name}.fp16.safetensors", f"{name}.non_ema.safetensors", "pytorch_model.bin", "model.onnx"):
            save_file(weights, (folder / file).parent / other, {"format": "pt"})


def sd2(tiny_sd: Path, folder: Path, prediction: str) -> Path:
    """A model with what SD 2.x has and 1.x has not."""
    shutil.copytree(tiny_sd, folder)
    torch.manual_seed(1)
    UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    words = json.loads((folder / "text_encoder" / "config.json").read_text())["vocab_size"]
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as published, though they are not its tokens
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            hidden_act="gelu",
            projection_dim=8,
            **ends,
        )
    ).save_pretrained(folder / "text_encoder")
    _old_tokenizer(folder / "tokenizer", "!")
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    return folder


def _old_tokenizer(folder: Path, pad: str) -> None:
    """Rewrites a tokenizer as vocab.json and merges.txt."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    for file in folder.iterdir():
        file.unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    tokens["pad_token"] = pad
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    settings = {"model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer", **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
