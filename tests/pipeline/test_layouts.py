"""A data set has the same scores however it is stored, since noise derives from ids that are the same."""

from pathlib import Path

import pyarrow.dataset as pads
import pytest

from ddps_ray.config import Recipe, parse
from ddps_ray.pipeline import index, pack, score
from tests.sources.datasets import WRITERS

pytestmark = pytest.mark.usefixtures("ray_session")


def _recipe(run_dir: Path, data: Path, model: Path) -> Recipe:
    values = {
        "run_dir": str(run_dir),
        "data": {"root": str(data)},
        "model": {"path": str(model)},
        "score": {"size": 64, "patch": 32, "pairs": 1, "judge": "skip"},
    }
    return parse(values, "test")


def _typicality(recipe: Recipe) -> dict[str, float]:
    score.run(recipe)
    rows = pads.dataset(f"{recipe.run_dir}/scores", format="parquet").to_table(["image_id", "typicality"])
    return dict(zip(rows["image_id"].to_pylist(), rows["typicality"].to_pylist(), strict=True))


def test_each_layout_gives_the_same_scores(scenes: Path, tiny_sd: Path, tmp_path: Path) -> None:
    images = {
        split: {
            c: {f"{c}{path.name}": path.read_bytes() for path in sorted((scenes / split / c).iterdir())[:4]}
            for c in ("ball", "dice", "gem")
        }
        for split in ("train", "val")
    }
    scores = {}
    for layout in ("imagefolder", "huggingface", "webdataset", "tiny-imagenet"):
        WRITERS[layout](tmp_path / layout / "data", images)
        recipe = _recipe(tmp_path / layout / "run", tmp_path / layout / "data", tiny_sd)
        index.run(recipe)
        scores[layout] = _typicality(recipe)
    pack.run(recipe, str(tmp_path / "packed" / "data"))
    recipe = _recipe(tmp_path / "packed" / "run", tmp_path / "packed" / "data", tiny_sd)
    index.run(recipe)
    scores["packed"] = _typicality(recipe)
    assert len(scores["imagefolder"]) == 12
    for layout, found in scores.items():
        assert found == pytest.approx(scores["imagefolder"], abs=1e-5), layout
