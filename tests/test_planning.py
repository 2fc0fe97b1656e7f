"""`ddps plan` says, before anything is paid for, what scoring takes: numbers worked out by hand."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddps_ray import cli, manifest, schemas
from ddps_ray.config import Score, parse
from ddps_ray.diffusion.flops import Cost, flops_per_image
from ddps_ray.diffusion.measuring import measure
from ddps_ray.gpus import PEAKS
from ddps_ray.planning import Plan, Sizes, Speed, assumed, bytes_per_image, table
from ddps_ray.storage import Run

SIZES = [(100, 50), (50, 100), (64, 64), (80, 64)]
IMAGENET = Plan(
    images=1_281_167,
    done=281_167,
    sizes=Sizes(344, 256, 64, 2),
    cost=Cost(unet_calls=20, unet=4_400_000_000_000, vae=400_000_000_000, dift=200_000_000_000),
    stored=5_500,
    rows_per_shard=3000,
    speed=Speed(0.09, "l4 at 35 %"),
    price=0.5,
)


@pytest.fixture
def indexed(tmp_path: Path, tiny_sd: Path) -> Path:
    """A recipe whose data set of four sizes, and one file that is no image, is indexed."""
    data = tmp_path / "data"
    data.mkdir()
    for at, size in enumerate(SIZES):
        Image.new("RGB", size).save(data / f"{at}.png")
    (data / "4.png").write_text("no image")
    names = [f"{at}.png" for at in range(5)]
    columns = {"image_id": names, "uri": [str(data / name) for name in names], "label": [0] * 5}
    columns |= {"class_id": ["a"] * 5, "class_text": ["a"] * 5, "split": ["train"] * 5}
    run = Run(str(tmp_path / "run"))
    run.claim("index", {})
    manifest.write(run, "train", schemas.table(columns, schemas.MANIFEST))
    run.finish("index", {"splits": {"train": 5}})
    file = tmp_path / "run.yaml"
    settings = "{size: 64, patch: 32, pairs: 3, store_terms: true, rows_per_shard: 2, judge: skip}"
    file.write_text(
        f"run_dir: {run.uri}\ndata: {{root: {data}, val: null}}\nmodel: {{path: {tiny_sd}}}\nscore: {settings}\n"
        "distill: {sets: {a: {ipc: [1]}}}\n"
    )
    return file


def _plan(file: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    assert cli.main(["plan", "--config", str(file), *words]) == 0
    begun, *lines = capsys.readouterr().out.splitlines()
    assert begun.startswith("plan: starting ddps ")
    assert len({re.match(r".{11}  ", line) is not None for line in lines}) == 1
    return {line[:11].strip(): line[13:] for line in lines}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is here is timed instead")
def test_a_plan_on_the_command_line(indexed: Path, tiny_sd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _plan(indexed, capsys, "--gpu", "a100", "--price", "2")
    assert said["images"] == "5: 0 scored, 5 left"
    # Longer edges 128, 128, 64 and 80 at a shorter edge of 64: their mean is 100, a multiple of 4.
    assert said["size"] == "100 × 64 px, mean of 5 images sampled, of which 1 cannot be used"
    assert said["U-Net calls"] == "6 an image, 30 left"
    total = flops_per_image(tiny_sd, Score(size=64, patch=32, pairs=3), 100, 64).total
    assert said["operations"].startswith(f"{total / 1e6:.3g} MFLOP an image (U-Net ")
    # 25 × 16 positions; one map and three terms of two bytes, three time steps, eight channels of the feature.
    assert 2 * (4 * 400 + 3 + 8) + 100 == 3322
    assert said["written"] == "3.32 kB an image, 16.6 kB left, before compression"
    assert said["shards"] == "3 left, of 2 images each"
    assert said["time"].endswith("GPU-hours left on a100 at 35% of 19.5 TFLOP/s (float32 without tensor cores)")
    assert said["cost"] == "under 0.1 left, at 2 a GPU-hour"


def test_what_is_scored_is_not_planned_again(indexed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "scores").mkdir()
    for name, rows in (("a", 3), ("b", 1)):
        row = {"image_id": name, "uri": name, "class_id": "a", "label": 0}
        shard = pa.Table.from_pylist([row] * rows, schemas.scores(8))
        pq.write_table(shard, tmp_path / "run" / "scores" / f"{name}.parquet")
    said = _plan(indexed, capsys)
    assert said["images"] == "5: 4 scored, 1 left"
    assert said["U-Net calls"] == "6 an image, 6 left"
    assert said["shards"] == "1 left, of 2 images each"


def test_a_plan_tries_the_judge_and_ends_with_2_where_it_is_none(
    indexed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _plan(indexed, capsys, "--set", "score.judge=stop")
    assert said["judge"].startswith("one class, so that the judge cannot be tried (error ")
    run = Run(str(tmp_path / "run"))
    rows = 10 * manifest.dataset(run).to_table().to_pylist()
    names = [{"class_id": "a", "class_text": "fish", "label": 0}, {"class_id": "b", "class_text": "leaf", "label": 1}]
    rows = [row | names[number % 2] | {"image_id": str(number)} for number, row in enumerate(rows)]
    single = ["--set", "distill.mosaic_up_to=0"]
    manifest.write(run, "train", pa.Table.from_pylist(rows, schemas.MANIFEST))
    assert cli.main(["plan", "--config", str(indexed), "--set", "score.judge=stop", *single]) == 2
    told = capsys.readouterr()
    assert "\njudge        the judge prefers an image's own class to another in " in told.out
    assert "Likely cause: " in told.err
    assert cli.main(["plan", "--config", str(indexed), "--set", "score.judge=warn", *single]) == 0
    assert re.search(
        r"^warning +model\.path: the judge prefers .* Likely cause: ", capsys.readouterr().out, re.MULTILINE
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is here is timed instead")
def test_what_is_not_small_is_planned_by_its_configuration_alone(
    indexed: Path, tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "without_weights"
    shutil.copytree(tiny_sd, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    words = ["--set", f"model.path={folder}", "--set", "score.judge=stop"]
    lacking = (
        f"model.path: {folder} has no unet/diffusion_pytorch_model.safetensors; no other format or variant is read"
    )
    later = "; `ddps score` tries it first (`ddps plan --judge` does it here)"
    assert _plan(indexed, capsys, *words)["judge"] == f"not tried: {lacking}{later}"
    assert "judge" not in _plan(indexed, capsys, *words[:2]), "the recipe does not try it"
    many = [*words, "--set", "score.pairs=1000000"]
    assert _plan(indexed, capsys, *many)["judge"] == f"not tried: that takes long on a CPU{later}"
    assert cli.main(["plan", "--config", str(indexed), *many, "--judge"]) == 2
    assert capsys.readouterr().err == f"ddps: {lacking}\n"
    assert _plan(indexed, capsys, "--judge")["judge"].startswith("one class, "), "asked for, it is tried all the same"


def test_a_million_images_in_numbers() -> None:
    said = {line[:11].strip(): line[13:] for line in table(IMAGENET)}
    assert said == {
        "images": "1,281,167: 281,167 scored, 1,000,000 left",
        "size": "344 × 256 px, mean of 64 images sampled, of which 2 cannot be used",
        "U-Net calls": "20 an image, 20,000,000 left",
        "operations": "5 TFLOP an image (U-Net 4.4 T, VAE 400 G, DIFT 200 G), 5 EFLOP left",
        "written": "5.5 kB an image, 5.5 GB left, before compression",
        "shards": "334 left, of 3,000 images each",
        "time": "25.0 GPU-hours left on l4 at 35 %",  # 10⁶ × 0.09 s
        "cost": "12.5 left, at 0.5 a GPU-hour",
    }
    finished = {line[:11].strip(): line[13:] for line in table(replace(IMAGENET, done=1_281_167))}
    assert finished["time"] == "0.0 GPU-hours left on l4 at 35 %"
    assert finished["shards"] == "0 left, of 3,000 images each"


def test_a_gpu_reaches_a_share_of_its_peak_for_the_precision() -> None:
    assert assumed(IMAGENET.cost, "l4", "float16", 0.5).seconds == pytest.approx(5 / 60.5)
    assert assumed(IMAGENET.cost, "l4", "bfloat16", 0.5).source == "l4 at 50% of 121 TFLOP/s (bfloat16 on tensor cores)"
    assert assumed(IMAGENET.cost, "v100", "float32", 1.0).seconds == pytest.approx(5 / 15.7)


def test_the_bytes_of_a_row_follow_what_is_stored() -> None:
    sizes = Sizes(344, 256, 1, 0)  # 43 × 32 = 1376 positions of 8 px
    assert bytes_per_image(Score(), sizes, 8, 1280) == 2 * 1376 + 2 * 1280 + 100
    assert bytes_per_image(Score(store_map=False), sizes, 8, 1280) == 2 * 1280 + 100
    every = 2 * 11 * 1376 + 2 * 10 + 2 * 1280 + 100
    assert bytes_per_image(Score(store_terms=True), sizes, 8, 1280) == every


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "l5"], f"--gpu l5: not a type known here; known are {', '.join(PEAKS)}"),
        (["--utilisation", "0"], "--utilisation 0: give a share over 0 and at most 1"),
        (["--utilisation", "1.01"], "--utilisation 1.01: give a share over 0 and at most 1"),
        (["--utilisation", "nan"], "--utilisation nan: give a share over 0 and at most 1"),
        (["--price", "-1"], "--price -1: give a number of at least 0"),
        (
            ["--set", "distill.sets.a.ipc=[6]"],
            "distill.sets.a.ipc: class 'a': 6 mosaics of four patches need 24 images "
            "of each class, and it has 5: possible is ipc up to 1, or, with single patches (composition: single), "
            "ipc up to 5",
        ),
        (["--set", "data.train=other"], "data.train: the index in {run} has no split 'other'"),
        (["--set", "score.patch=30"], "score.patch: 30 is not a multiple of 4, the VAE's scale factor"),
        (["--set", "run_dir={run}-new"], "{run}-new has no finished index stage: run `ddps index` first"),
    ],
)
def test_a_mistake_is_one_line(
    indexed: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert cli.main(["plan", "--config", str(indexed), *(word.replace("{run}", run) for word in words)]) == 2
    assert capsys.readouterr().err == f"ddps: {said.replace('{run}', run)}\n"


def test_images_that_cannot_be_read_are_not_planned_for(
    indexed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    assert cli.main(["plan", "--config", str(indexed)]) == 2
    assert "none of the 5 images that were sampled can be used" in capsys.readouterr().err


def test_a_device_that_is_here_can_be_timed(tiny_sd: Path) -> None:
    values = {"run_dir": "run", "data": {"root": "data"}, "model": {"path": str(tiny_sd)}}
    recipe = parse(values | {"score": {"size": 64, "patch": 32, "pairs": 1, "batch": 4}}, "test")
    assert measure(tiny_sd, recipe, torch.device("cpu"), 64, 64, batches=2) > 0


def test_planning_imports_no_ray() -> None:
    code = "import sys, ddps_ray.planning; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
