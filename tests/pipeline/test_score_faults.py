"""Scoring where something breaks: a GPU that fails on one image, weights, a plan, too many bad images."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from PIL import Image
from ray.data import DataContext

from ddps_ray import cli, manifest, schemas, storage
from ddps_ray.config import Recipe, parse
from ddps_ray.errors import UserError
from ddps_ray.pipeline import index, score
from ddps_ray.pipeline.commits import checkpointed
from ddps_ray.pipeline.progress import Heartbeat
from ddps_ray.pipeline.scoring import ScoringActor
from ddps_ray.selection.candidates import read_class, shards_by_class
from ddps_ray.storage import Run
from tests.selection.rows import failed, score_table
from tests.test_cli import own_lines

pytestmark = pytest.mark.usefixtures("ray_session")

WIDE = 12
"""Latent positions across the one image on which the GPU fails."""


def _values(run_dir: Path, data: Path, model: Path, **settings: Any) -> dict[str, Any]:
    small = {"size": 16, "patch": 16, "pairs": 1, "judge": "skip", "batch": 4, "max_error_fraction": 0.5}
    return {
        "run_dir": str(run_dir),
        "data": {"root": str(data), "val": None},
        "model": {"path": str(model)},
        "score": small | settings,
    }


def _recipe(run_dir: Path, data: Path, model: Path, **settings: Any) -> Recipe:
    return parse(_values(run_dir, data, model, **settings), "test")


def _image(path: Path, width: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


class Breaking(ScoringActor):
    """A scorer whose U-Net fails on the wide image as CUDA does: an error, after which the process is of no use."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        unet = self._scorer._checkpoint.unet
        sound = unet.forward

        def forward(sample: torch.Tensor, *others: Any, **named: Any) -> Any:
            if sample.shape[-1] == WIDE:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            return sound(sample, *others, **named)

        unet.forward = forward


def test_an_image_that_always_breaks_the_gpu_costs_its_batch_and_no_other_image(tiny_sd: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    ids = [f"train/leaf/{number:02d}.png" for number in range(12)]
    for number, image_id in enumerate(ids):
        _image(data / image_id, WIDE * 4 if number == 5 else 16, number)
    recipe = _recipe(tmp_path / "run", data, tiny_sd, rows_per_shard=12, batch=4)
    index.run(recipe)
    score.run(recipe, actor=Breaking)
    rows = pads.dataset(f"{recipe.run_dir}/scores", format="parquet").to_table().to_pylist()
    assert sorted(row["image_id"] for row in rows) == ids
    bad = {row["image_id"]: row["error"] for row in rows if row["error"] is not None}
    assert bad == dict.fromkeys(ids[4:8], "the GPU failed 3 times on its batch")
    assert all(np.isfinite(row["typicality"]) for row in rows if row["error"] is None)
    beat = json.loads((tmp_path / "run" / "progress" / "score.json").read_text())
    assert (beat["state"], beat["scored"], beat["safe"], beat["errors"]) == ("finished", 12, 12, 4)
    # Mended, as by another driver or GPU: each of them is tried anew, and what was counted before does not matter.
    score.run(recipe, retry_failed=True)
    assert Run(recipe.run_dir).require("score", "score")["scored"] == 12
    assert list(storage.list_files(Run(recipe.run_dir).path("checkpoints", "strikes"))) == []


def test_damaged_weights_are_one_line_and_exit_code_2(
    tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_sd, model)
    weights = next((model / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    _image(tmp_path / "data" / "train" / "leaf" / "0.png", 16, 0)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(_values(tmp_path / "run", tmp_path / "data", model)))
    assert cli.main(["index", "--config", str(config)]) == 0
    capsys.readouterr()
    assert cli.main(["score", "--config", str(config)]) == 2
    said = [line for line in own_lines(capsys.readouterr().err) if line.startswith("ddps: ")]
    assert len(said) == 1
    assert said[0].startswith(f"ddps: model.path: {model}/unet cannot be loaded: ")


def test_a_plan_that_ray_cannot_checkpoint_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "a.parquet")

    def without_a_write() -> int:
        return int(ray.data.read_parquet(str(tmp_path / "a.parquet")).materialize().count())

    with (
        pytest.raises(UserWarning, match="logical plan doesn't support checkpointing"),
        checkpointed(str(tmp_path / "commits")),
    ):
        without_a_write()
    assert without_a_write() == 1, "outside of it Ray is as it was"


class Endless:
    """Holds its first batch until the test is over, or for a minute."""

    def __init__(self, over: Path) -> None:
        self._over = over

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Waits."""
        begun = time.monotonic()
        while not self._over.exists() and time.monotonic() - begun < 60:
            time.sleep(0.05)
        return rows


def test_a_heartbeat_that_finds_too_many_errors_ends_the_execution(tmp_path: Path) -> None:
    run, over = Run(str(tmp_path / "run")), tmp_path / "over"

    def watched() -> None:
        with Heartbeat(run, Endless.__name__, total=20, fraction=0.1, seconds=0.1):
            storage.write_table(run.path("scores", "5eed_000000-0.parquet"), score_table([failed(i) for i in "abc"]))
            held = ray.data.range(1).map_batches(Endless, fn_constructor_args=(over,), batch_format="pyarrow")
            held.materialize()

    with pytest.raises(UserError, match=r"max_error_fraction: 3 of 20 images failed, more than 0\.1;"):
        watched()
    over.touch()
    assert DataContext.get_current().custom_execution_callback_classes == []
    assert json.loads((tmp_path / "run" / "progress" / "score.json").read_text())["state"] == "failed"


def test_a_class_lies_in_few_row_groups_of_a_shard(tiny_sd: Path, tmp_path: Path) -> None:
    image = tmp_path / "data" / "train" / "leaf" / "0.png"
    _image(image, 16, 0)
    recipe = _recipe(tmp_path / "run", tmp_path / "data", tiny_sd, batch=64, rows_per_shard=300)
    index.run(recipe)
    # One picture under three hundred names, the classes in turn.
    names = [(f"c{number % 3}", f"{number:03d}") for number in range(300)]
    columns = {
        "image_id": [f"{class_id}/{name}" for class_id, name in names],
        "uri": [str(image)] * 300,
        "class_id": [class_id for class_id, _ in names],
        "class_text": ["leaf"] * 300,
        "label": [int(class_id[1]) for class_id, _ in names],
        "split": ["train"] * 300,
    }
    run = Run(recipe.run_dir)
    files = manifest.write(run, "train", schemas.table(columns, schemas.MANIFEST))
    run.finish("index", {"files": files, "splits": {"train": 300}, "fingerprint": "of 300"})
    score.run(recipe)
    scores = run.path("scores")
    (shard,) = pads.dataset(scores, format="parquet").get_fragments()
    groups = [
        [group.id for group in shard.subset(pads.field("class_id") == name).row_groups] for name in ("c0", "c1", "c2")
    ]
    assert groups == [[0], [0, 1], [1, 2]]  # 128 rows a group, 100 a class
    found = shards_by_class(scores)
    assert read_class(scores, list(found["c1"]), "c1").image_ids == tuple(
        f"c1/{number:03d}" for number in range(1, 300, 3)
    )
