"""Checkpoints are fetched once, whole, without what is not loaded; and other kinds of models are named as such."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub.constants
import pytest
from diffusers import UNet2DConditionModel

from ddps_ray.config import Model
from ddps_ray.diffusion import layout, staging
from ddps_ray.errors import UserError
from tests.diffusion.layouts import UNET, add_variants, edit

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def model(tiny_sd: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_sd, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _cached(hub: Path, source: Path, commit: str, branch: str = "main") -> Path:
    """Puts a model into the cache as a download of a branch would."""
    top = hub / "models--someone--model"
    shutil.copytree(source, top / "snapshots" / commit)
    (top / "refs").mkdir(exist_ok=True)
    (top / "refs" / branch).write_text(commit)
    return top / "snapshots" / commit


def test_a_model_in_a_store_is_copied_without_what_is_not_loaded(model: Path, home: Path) -> None:
    needed = _files(model)
    add_variants(model)
    (model / "safety_checker").mkdir()
    (model / "safety_checker" / "model.safetensors").write_bytes(b"large")
    folder = staging.locate(Model(path=f"file://{model}"), "")
    assert folder.is_relative_to(home)
    assert _files(folder) == needed
    assert (folder / UNET).read_bytes() == (model / UNET).read_bytes()
    without = staging.locate(Model(path=f"file://{model}"), "", weights=False)
    assert _files(without) == {file for file in needed if not file.endswith(".safetensors")}


def test_a_model_that_changed_in_its_store_is_copied_again(model: Path, home: Path) -> None:
    first = staging.locate(Model(path=f"file://{model}"), "")
    before = (first / UNET).stat().st_mtime_ns
    assert staging.locate(Model(path=f"file://{model}"), "") == first
    assert (first / UNET).stat().st_mtime_ns == before
    edit(model / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    second = staging.locate(Model(path="pretrained"), f"file://{model}")
    assert "v_prediction" in (second / "scheduler" / "scheduler_config.json").read_text()
    assert "v_prediction" not in (first / "scheduler" / "scheduler_config.json").read_text()


def test_actors_that_start_at_once_copy_it_once(model: Path, home: Path) -> None:
    with ThreadPoolExecutor(6) as actors:
        folders = set(actors.map(lambda _: staging.locate(Model(path=f"file://{model}"), ""), range(6)))
    assert len(folders) == 1
    assert _files(folders.pop()) == _files(model)
    assert not list(home.rglob("*.part"))


def test_a_copy_that_was_cut_off_is_not_taken_for_the_model(model: Path, home: Path) -> None:
    folder = staging.locate(Model(path=f"file://{model}"), "")
    left = folder.rename(folder.with_suffix(".part"))  # as a process leaves it that is killed while it copies
    (left / UNET).write_bytes(b"half")
    (left / "unet" / "config.json").unlink()
    assert staging.locate(Model(path=f"file://{model}"), "") == folder
    assert (folder / UNET).read_bytes() == (model / UNET).read_bytes()
    assert _files(folder) == _files(model)


def test_a_branch_is_pinned_to_the_commit_that_is_here(tiny_sd: Path, hub: Path) -> None:
    _cached(hub, tiny_sd, FIRST)
    pinned = staging.pin(Model(path="someone/model"))
    assert pinned.revision == FIRST
    _cached(hub, tiny_sd, SECOND)  # the branch has moved since
    assert staging.pin(Model(path="someone/model")).revision == SECOND
    assert staging.pin(pinned) == pinned
    assert staging.locate(pinned, "").name == FIRST
    assert staging.pin(Model(path="someone/model", revision="main")).revision == SECOND


def test_what_is_not_of_the_hub_is_not_pinned(model: Path) -> None:
    for path in (str(model), "quickstart", "pretrained", "s3://bucket/model"):
        assert staging.pin(Model(path=path)) == Model(path=path)


def test_a_snapshot_of_which_a_part_is_here_is_not_taken_for_the_model(tiny_sd: Path, hub: Path) -> None:
    (_cached(hub, tiny_sd, FIRST) / UNET).unlink()
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        staging.locate(Model(path="someone/model", revision=FIRST), "")
    assert staging.locate(Model(path="someone/model", revision=FIRST), "", weights=False).name == FIRST


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("someone/other", "HF_HUB_OFFLINE is set, and it is not in this machine's cache"),
        ("no such/name/at all", "there is no folder here that is called so, and no model of the Hub can be"),
    ],
)
def test_a_hub_model_that_cannot_be_had_is_named(hub: Path, path: str, said: str) -> None:
    for work in (staging.pin, lambda model: staging.locate(model, "")):
        with pytest.raises(UserError, match=rf"^model\.path: {path} at revision v2: .*{said}$"):
            work(Model(path=path, revision="v2"))


@pytest.mark.parametrize("path", ["/nowhere/sd", "./sd", "../sd", "~/sd"])
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(hub: Path, path: str) -> None:
    for work in (staging.pin, lambda model: staging.locate(model, "")):
        with pytest.raises(UserError, match=f"^model.path: there is no folder {path}$"):
            work(Model(path=path))


def test_a_single_file_is_named_as_such_with_what_to_do(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "v1-5-pruned.ckpt").write_bytes(b"x")
    (tmp_path / "weights").write_bytes(b"x")
    absent = "s3://bucket/v1-5-pruned-emaonly.safetensors"
    for path in (str(tmp_path / "v1-5-pruned.ckpt"), str(tmp_path / "weights"), "sd15.safetensors", absent):
        with pytest.raises(UserError, match=r"is a single file.*from_single_file\(FILE\)\.save_pretrained\(FOLDER\)$"):
            staging.locate(Model(path=path), "")


def test_a_folder_of_the_hubs_cache_is_named_as_such(tiny_sd: Path, hub: Path) -> None:
    snapshot = _cached(hub, tiny_sd, FIRST)
    folder = hub / "models--someone--model"
    with pytest.raises(UserError, match=f"is a folder of the Hub's cache: name {snapshot}, or the model as the Hub"):
        staging.locate(Model(path=str(folder)), "")
    assert staging.locate(Model(path=str(snapshot)), "") == snapshot


def _downloaded(name: str) -> bool:
    """What the Hub's client does with patterns."""
    return any(fnmatch(name, pattern) for pattern in layout.patterns())


def test_a_download_takes_one_set_of_weights_of_a_published_model() -> None:
    names = ["model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "README.md"]
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        ends = ("safetensors", "fp16.safetensors", "non_ema.safetensors", "bin", "fp16.bin")
        names += [f"{part}/config.json", *(f"{part}/{stem}.{end}" for end in ends)]
    names += ["safety_checker/config.json", "safety_checker/model.safetensors", "unet/flax_model.msgpack"]
    names += [f"tokenizer/{name}" for name in ("merges.txt", "special_tokens_map.json", "vocab.json")]
    names += ["scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json"]
    wanted = {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    }
    assert {name for name in names if _downloaded(name)} == wanted
    assert {name for name in names if layout.is_loaded(name)} == wanted
    shards = [f"unet/diffusion_pytorch_model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    shards.append("unet/diffusion_pytorch_model.safetensors.index.json")
    assert all(_downloaded(name) and layout.is_loaded(name) for name in shards)


KINDS = {
    "StableDiffusionXLPipeline": {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
    "DiTPipeline": {"unet": None, "text_encoder": None, "transformer": ["diffusers", "DiTTransformer2DModel"]},
    "PixArtAlphaPipeline": {"unet": None, "text_encoder": ["transformers", "T5EncoderModel"]},
    "FluxPipeline": {"unet": None, "transformer": ["diffusers", "FluxTransformer2DModel"]},
    "StableDiffusion3Pipeline": {"unet": None, "text_encoder": ["transformers", "CLIPTextModelWithProjection"]},
    "LDMTextToImagePipeline": {"vae": None, "text_encoder": None},
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_model_is_named_before_what_it_lacks(model: Path, home: Path, kind: str) -> None:
    index = json.loads((model / "model_index.json").read_text()) | KINDS[kind] | {"_class_name": kind}
    (model / "model_index.json").write_text(json.dumps({key: value for key, value in index.items() if value}))
    shutil.rmtree(model / "unet")
    for path in (str(model), f"file://{model}"):
        with pytest.raises(UserError, match=rf"^model\.path: \S+ is a {kind}; Stable Diffusion 1\.x and 2\.x are"):
            staging.locate(Model(path=path), "")
    assert not home.exists()  # nothing was copied to find that out


def test_a_model_that_takes_or_gives_something_else_is_refused(model: Path) -> None:
    edit(model / "unet" / "config.json", in_channels=9)
    with pytest.raises(UserError, match=r"its U-Net takes 9 channels, its VAE gives 4; inpainting"):
        staging.locate(Model(path=str(model)), "")
    edit(model / "unet" / "config.json", in_channels=4, class_embed_type="projection")
    with pytest.raises(UserError, match=r"with class_embed_type 'projection'"):
        staging.locate(Model(path=str(model)), "")
    edit(model / "unet" / "config.json", class_embed_type=None)
    edit(model / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(UserError, match=r"predicts sample; epsilon and v_prediction are supported"):
        staging.locate(Model(path=str(model)), "")


def test_of_weights_in_shares_every_one_must_be_there(model: Path, home: Path) -> None:
    whole = UNet2DConditionModel.from_pretrained(model / "unet")
    (model / UNET).unlink()
    whole.save_pretrained(model / "unet", max_shard_size="100KB")
    shares = sorted((model / "unet").glob("*-of-*.safetensors"))
    assert len(shares) > 1
    assert staging.locate(Model(path=str(model)), "") == model
    shares[-1].unlink()
    for path in (str(model), f"file://{model}"):
        with pytest.raises(UserError, match=rf"has no unet/{shares[-1].name}, which unet/\S+\.index\.json names"):
            staging.locate(Model(path=path), "")
    assert staging.locate(Model(path=str(model)), "", weights=False) == model
    (model / f"{UNET}.index.json").unlink()
    with pytest.raises(UserError, match=r"has no unet/diffusion_pytorch_model\.safetensors;"):
        staging.locate(Model(path=str(model)), "")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_its_configuration_is_named(model: Path, part: str) -> None:
    (model / part / "config.json").unlink()
    with pytest.raises(UserError, match=rf"model/{part}/config\.json: No such file"):
        staging.locate(Model(path=str(model)), "")


def test_weights_in_another_format_only_are_named(model: Path) -> None:
    (model / UNET).rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(
        UserError, match=r"has no unet/diffusion_pytorch_model\.safetensors; no other format or variant"
    ):
        staging.locate(Model(path=str(model)), "")


def test_a_tokenizer_without_words_is_named(model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").rename(model / "tokenizer" / "vocab.json")
    with pytest.raises(UserError, match=r"tokenizer has neither tokenizer\.json nor vocab\.json with merges\.txt"):
        staging.locate(Model(path=str(model)), "")


def test_a_place_with_no_model_is_named(tmp_path: Path, home: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        ("file:///nowhere/at/all", "is not there, or empty"),
        (str(tmp_path / "empty"), "it has no unet folder"),
        ("pretrained", "there is no model in"),
    ]
    for path, said in cases:
        with pytest.raises(UserError, match=rf"^model\.path: .*{said}"):
            staging.locate(Model(path=path), str(tmp_path / "absent"))
