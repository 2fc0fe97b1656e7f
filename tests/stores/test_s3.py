"""A run whose data and results lie in an object store: the same as on disk, when the store fails, and after a kill."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml

from ddps_ray import config, manifest, storage
from ddps_ray.config import Recipe
from ddps_ray.inspection import verify
from ddps_ray.pipeline import distill, index, score
from tests.faults.nodes import ENVIRONMENT, ROOT, kill, until
from tests.stores.conftest import Store
from tests.stores.flaky import KINDS, flaky

pytestmark = pytest.mark.usefixtures("ray_session")

CLASSES = ("fish", "leaf", "sign")
IMAGES = 8


@pytest.fixture(scope="module")
def photos(scenes: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images of three classes, one of them bad; the same lie in the store under `photos`."""
    root = tmp_path_factory.mktemp("photos")
    for class_id in CLASSES:
        (root / "train" / class_id).mkdir(parents=True)
        for file in sorted((scenes / "train" / class_id).iterdir())[:IMAGES]:
            shutil.copy(file, root / "train" / class_id)
    (root / "train" / "sign" / "00000.png").write_bytes(b"not a picture")
    for file in root.rglob("*.png"):
        storage.write_bytes(store.uri(f"photos/{file.relative_to(root)}"), file.read_bytes())
    return root


def _recipe(run_dir: str, root: str, model: Path, **changes: Any) -> Recipe:
    return config.parse(_values(run_dir, root, model, **changes), "test")


def _values(run_dir: str, root: str, model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_dir": run_dir,
        "data": {"root": root, "val": None},
        "model": {"path": str(model)},
        "score": {"size": 64, "patch": 32, "pairs": 2, "judge": "skip", "batch": 4, "rows_per_shard": 4} | changes,
        "distill": {
            "size": 32,
            "clusters": 3,
            "top_clusters": 2,
            "mosaic_up_to": 1,
            "sets": {"ddps": {"ipc": [1, 3]}},
        },
    }


def _run(recipe: Recipe) -> Recipe:
    for stage in (index, score, distill):
        stage.run(recipe)
    return recipe


@pytest.fixture(scope="module")
def on_disk(photos: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return _run(_recipe(str(tmp_path_factory.mktemp("run")), str(photos), tiny_sd))


def _table(folder: str) -> pa.Table:
    filesystem, _ = storage.open_uri(folder)
    files = [file.path for file in storage.list_files(folder)]
    return ds.dataset(files, format="parquet", filesystem=filesystem).to_table().sort_by("image_id")


def _scores(recipe: Recipe) -> pa.Table:
    return _table(storage.join(recipe.run_dir, "scores")).drop_columns("uri")


def _distilled(recipe: Recipe) -> dict[str, bytes]:
    folder = storage.join(recipe.run_dir, "distilled")
    start = len(storage.open_uri(folder)[1])
    filesystem, _ = storage.open_uri(folder)
    return {file.path[start:]: filesystem.open_input_file(file.path).readall() for file in storage.list_files(folder)}


def test_scores_and_distilled_files_are_those_on_disk(on_disk: Recipe, store: Store, tiny_sd: Path) -> None:
    recipe = _run(_recipe(store.uri("run"), store.uri("photos"), tiny_sd))
    rows = _scores(recipe)
    assert rows.num_rows == len(CLASSES) * IMAGES
    assert rows.equals(_scores(on_disk))
    assert _distilled(recipe) == _distilled(on_disk)
    assert verify.run(recipe.run_dir) == verify.SOUND


def test_a_store_that_fails_every_tenth_request_changes_nothing(on_disk: Recipe, store: Store, tiny_sd: Path) -> None:
    with flaky(store.address, share=0.1, seed=1) as proxy:
        recipe = _run(_recipe(store.uri("bad-run", proxy.address), store.uri("photos", proxy.address), tiny_sd))
    assert all(proxy.counts[kind] > 0 for kind in KINDS), proxy.counts
    there = recipe.model_copy(update={"run_dir": store.uri("bad-run")})
    assert _scores(there).equals(_scores(on_disk))
    assert _distilled(there) == _distilled(on_disk)


@pytest.mark.usefixtures("photos")
def test_a_run_killed_in_the_middle_goes_on(store: Store, tiny_sd: Path, tmp_path: Path) -> None:
    values = _values(store.uri("killed-run"), store.uri("photos"), tiny_sd, pairs=20)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    recipe = config.load(tmp_path / "run.yaml")
    index.run(recipe)
    command = [sys.executable, "-m", "ddps_ray.cli", "score", "--config", str(tmp_path / "run.yaml")]
    with (tmp_path / "log.txt").open("wb") as log:
        job = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: bool(_committed(recipe)) or job.poll() is not None, "the first commit")
        assert job.poll() is None, (tmp_path / "log.txt").read_text()[-5000:]
    finally:
        if job.poll() is None:
            kill(psutil.Process(job.pid))
        job.wait(30)
    before = _shards(recipe)
    score.run(recipe)
    after = _shards(recipe)
    assert 0 < len(before) < len(after), "it was to be killed in the middle"
    assert before.items() <= after.items(), "what was written stays as it was"
    rows = _scores(recipe)
    wanted = manifest.dataset(storage.Run(recipe.run_dir)).to_table(["image_id"]).sort_by("image_id")
    assert rows.select(["image_id"]).equals(wanted)
    assert verify.run(recipe.run_dir) == verify.SOUND


def _committed(recipe: Recipe) -> list[str]:
    files = [file.path for file in storage.list_files(storage.join(recipe.run_dir, "checkpoints"))]
    return [path for path in files if path.endswith(".parquet") and not path.endswith(".pending.parquet")]


def _shards(recipe: Recipe) -> dict[str, Any]:
    return {file.path: file.mtime for file in storage.list_files(storage.join(recipe.run_dir, "scores"))}
