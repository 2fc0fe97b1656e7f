"""The check of the judge: it passes a model that knows the data, and names the cause where one does not."""

import json
import math
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddps_ray import config, judge, manifest
from ddps_ray.config import Recipe, Score
from ddps_ray.quickstart.shapes import CLASSES
from ddps_ray.sources import imagefolder
from ddps_ray.storage import Run
from ddps_ray.verdict import Verdict
from tests.diffusion.layouts import edit

NAMES = sorted(CLASSES)


def indexed(folder: Path, scenes: Path, names: Mapping[str, str], model: str = "quickstart", **score: Any) -> Recipe:
    """A recipe whose images are indexed, the classes called so."""
    run = Run(str(folder / "run"))
    listing = imagefolder.list_images(str(scenes), ["train"], names)
    run.claim("index", {})
    files = manifest.write(run, "train", listing.splits["train"])
    run.finish("index", {"files": files, "splits": {"train": 120}})
    settings = {"size": 64, "patch": 32, "pairs": 4, "timesteps": [700, 950], **score}
    values = {"run_dir": run.uri, "data": {"root": str(scenes)}, "model": {"path": model}, "score": settings}
    return config.parse(values, "test")


def test_a_model_that_knows_the_data_proves_it(tmp_path: Path, scenes: Path) -> None:
    recipe = indexed(tmp_path, scenes, {name: name for name in NAMES})
    verdict = judge.examine(recipe)
    assert verdict.is_judge
    assert 20 <= verdict.images <= verdict.comparisons < 120, "no more than are needed, or than there is time for"
    assert verdict.right >= 0.9 * verdict.comparisons
    assert (verdict.timestep, verdict.causes) == (825, ())
    assert 0 < verdict.error < 0.1 < 1 < verdict.misread


@pytest.mark.parametrize("step", [1, -1])
def test_shifted_labels_are_the_likely_cause(tmp_path: Path, scenes: Path, step: int) -> None:
    shifted = {name: NAMES[(place + step) % 10] for place, name in enumerate(NAMES)}
    verdict = judge.examine(indexed(tmp_path, scenes, shifted))
    assert not verdict.is_judge
    which = "previous" if step == 1 else "next"
    assert verdict.causes[0].startswith(f"labels that are shifted: the {which} class's name fits better in ")
    assert len(verdict.causes) == 1


def test_labels_in_disorder_are_not_called_shifted(tmp_path: Path, scenes: Path) -> None:
    mixed = {name: NAMES[(3 * place + 1) % 10] for place, name in enumerate(NAMES)}
    verdict = judge.examine(indexed(tmp_path, scenes, mixed))
    assert verdict.is_chance
    assert verdict.causes == ("a model that does not know such images, or labels that are not theirs",)


def test_numbers_as_names_are_the_likely_cause(tmp_path: Path, scenes: Path) -> None:
    verdict = judge.examine(indexed(tmp_path, scenes, {name: str(place) for place, name in enumerate(NAMES)}))
    assert verdict.is_chance
    assert verdict.causes[0] == "names that name nothing: a class is called '0' (data.classes gives names)"


def test_names_that_name_nothing_are_said_before_the_judge_is_asked(tiny_sd: Path) -> None:
    settings = Score(size=64, patch=32, prompt="{}", null_prompt="")
    lines = judge.doubts(tiny_sd, settings, {"00000": "00000", "00013": "00013", "fish": "fish"})
    assert lines == ["2 classes have names that name nothing: '00000' is one"]
    assert judge.doubts(tiny_sd, settings, {"fish": "fish"}) == []


def test_a_prediction_type_that_is_not_the_models_is_named(tmp_path: Path, scenes: Path) -> None:
    model = tmp_path / "model"
    with resources.as_file(resources.files("ddps_ray.quickstart") / "weights") as weights:
        shutil.copytree(weights, model)
    edit(model / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    verdict = judge.examine(indexed(tmp_path, scenes, {name: name for name in NAMES}, str(model)))
    assert not verdict.is_judge
    assert (
        "prediction_type is v_prediction in scheduler/scheduler_config.json, and the model's output is epsilon"
        in (verdict.causes[-1])
    )


def test_an_untrained_model_is_at_chance(tmp_path: Path, scenes: Path, tiny_sd: Path) -> None:
    verdict = judge.examine(indexed(tmp_path, scenes, {name: name for name in NAMES}, str(tiny_sd), pairs=1))
    assert verdict.is_chance
    assert verdict.error > 0.9
    assert verdict.causes == ("a model that does not know such images, or labels that are not theirs",)


@pytest.mark.parametrize("names", [("fish", "leaf"), ("leaf", "fish")])
def test_a_class_with_few_images_gives_a_model_no_advantage(
    tmp_path: Path, scenes: Path, tiny_sd: Path, names: tuple[str, str]
) -> None:
    for class_id, images in (("ball", 12), ("gem", 4)):
        (tmp_path / "data" / "train" / class_id).mkdir(parents=True)
        for number in range(images):
            shutil.copy(scenes / "train" / class_id / f"{number:05}.png", tmp_path / "data" / "train" / class_id)
    recipe = indexed(tmp_path, tmp_path / "data", dict(zip(("ball", "gem"), names, strict=True)), str(tiny_sd), pairs=1)
    verdict = judge.examine(recipe)
    assert (verdict.images, verdict.comparisons) == (8, 8), "as many of each class"
    assert not verdict.is_better_than_chance


def test_a_model_whose_output_is_not_finite_is_said_to_be_so(tmp_path: Path, scenes: Path) -> None:
    model = tmp_path / "model"
    with resources.as_file(resources.files("ddps_ray.quickstart") / "weights") as weights:
        shutil.copytree(weights, model)
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"] = torch.full_like(tensors["conv_out.bias"], math.inf)
    save_file(tensors, file)
    verdict = judge.examine(indexed(tmp_path, scenes, {name: name for name in NAMES}, str(model)))
    assert not verdict.is_judge
    assert verdict.causes[0].startswith("in float32 the model's output is not finite in ")
    assert verdict.causes[0].endswith("damaged weights")
    assert Verdict.from_json(json.loads(json.dumps(verdict.as_json()))) == verdict


def test_of_one_class_only_the_error_is_said(tmp_path: Path, scenes: Path) -> None:
    (tmp_path / "one" / "train").mkdir(parents=True)
    shutil.copytree(scenes / "train" / "fish", tmp_path / "one" / "train" / "fish")
    verdict: Verdict = judge.examine(indexed(tmp_path, tmp_path / "one", {"fish": "fish"}))
    assert (verdict.images, verdict.comparisons, verdict.is_judge) == (12, 0, True)
