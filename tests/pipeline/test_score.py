"""The scoring stage on a real Ray: every image has a row, bad ones in quarantine, and a second run does nothing."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddps_ray import cli, imaging, manifest, schemas, storage
from ddps_ray.config import Recipe, parse
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.scorer import Item, Scorer
from ddps_ray.errors import UserError
from ddps_ray.pipeline import distill, index, score
from ddps_ray.storage import Run

pytestmark = pytest.mark.usefixtures("ray_session")


def _recipe(run_dir: Path, data: Path, model: Path, **changes: object) -> Recipe:
    values = {
        "run_dir": str(run_dir),
        "seed": 3,
        "data": {"root": str(data)},
        "model": {"path": str(model)},
        "distill": {"sets": {"ddps": {"ipc": [2, 5]}}, "clusters": 3, "top_clusters": 2, "mosaic_up_to": 2, "size": 32},
        "score": {
            "size": 64,
            "patch": 32,
            "pairs": 2,
            "judge": "skip",
            "batch": 7,
            "rows_per_shard": 20,
            "store_terms": True,
        }
        | changes,
    }
    return parse(values, "test")


@pytest.fixture(scope="module")
def data(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes, with odd and bad files among the leaves."""
    root = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(scenes, root)
    leaves = root / "train" / "leaf"
    whole = (leaves / "00000.png").read_bytes()
    (leaves / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (leaves / "text.jpg").write_text("not a picture")
    (leaves / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (4, 400)).save(leaves / "strip.png")
    wide = Image.open(io.BytesIO(whole)).resize((150, 100))
    wide.save(leaves / "wide.png")
    wide.convert("CMYK").save(leaves / "cmyk.jpg")
    return root


@pytest.fixture(scope="module")
def finished(data: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = _recipe(tmp_path_factory.mktemp("run"), data, tiny_sd)
    index.run(recipe)
    score.run(recipe)
    return recipe


def _scores(recipe: Recipe) -> dict[str, dict[str, object]]:
    rows = pads.dataset(f"{recipe.run_dir}/scores", format="parquet").to_table().to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {str(row["image_id"]): row for row in rows}


BAD = {"truncated.png": "cannot be decoded", "text.jpg": "not an image", "empty.jpg": "empty", "strip.png": "aspect"}


def test_every_image_has_one_row_and_bad_ones_a_reason(finished: Recipe, data: Path) -> None:
    rows = _scores(finished)
    files = {path.relative_to(data).as_posix() for path in (data / "train").rglob("*") if path.is_file()}
    assert set(rows) == files
    bad = {key: str(row["error"]) for key, row in rows.items() if row["error"] is not None}
    assert set(bad) == {f"train/leaf/{name}" for name in BAD}
    for name, reason in BAD.items():
        assert reason in bad[f"train/leaf/{name}"]
        assert rows[f"train/leaf/{name}"]["typicality"] is None
    quarantine = pq.read_table(f"{finished.run_dir}/quarantine/score.parquet")
    assert quarantine.schema.equals(schemas.QUARANTINE)
    assert {row["image_id"]: row["reason"] for row in quarantine.to_pylist()} == bad


def test_rows_are_those_of_the_scorer_alone(finished: Recipe, data: Path, tiny_sd: Path) -> None:
    rows = _scores(finished)
    scorer = Scorer(checkpoints.load(tiny_sd, "float32", torch.device("cpu")), finished.score, finished.seed)
    for image_id, size in {"train/leaf/wide.png": (96, 64), "train/gem/00003.png": (64, 64)}.items():
        scaled = imaging.scale(imaging.decode((data / image_id).read_bytes()), 64, 4, 8.0)
        assert scaled.size == size
        alone = scorer.score([Item(image_id, image_id.split("/")[1], np.asarray(scaled))])[0]
        row = rows[image_id]
        assert row["typicality"] == pytest.approx(alone.patch.typicality, abs=1e-5)
        terms = alone.terms_NHW[:, alone.patch.row : alone.patch.row + 8, alone.patch.column : alone.patch.column + 8]
        spread = np.std([term.mean() for term in terms], ddof=1) / len(terms) ** 0.5
        assert row["typicality_error"] == pytest.approx(spread, rel=1e-3)
        assert row["typicality_image"] == pytest.approx(alone.image_typicality, abs=1e-5)
        assert (row["left"], row["top"]) == (alone.patch.column * 4, alone.patch.row * 4)
        assert (row["scaled_width"], row["scaled_height"], row["map_width"]) == (*size, size[0] // 4)
        np.testing.assert_allclose(np.array(row["map"], np.float32), alone.map_HW.ravel(), atol=1e-3)
        np.testing.assert_allclose(np.array(row["dift"], np.float32), alone.dift_D, atol=1e-2)
        assert row["timesteps"] == alone.timesteps_N.tolist()
        assert len(np.array(row["terms"])) == 2 * row["map_width"] * row["map_height"]  # type: ignore[operator]
    assert (rows["train/leaf/wide.png"]["width"], rows["train/leaf/wide.png"]["height"]) == (150, 100)


def test_a_second_run_does_nothing_and_says_so(finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in Path(finished.run_dir).rglob("*")}

    before = state()
    score.run(finished)
    assert state() == before
    assert "already finished: 122 images scored, 4 in quarantine" in capsys.readouterr().out


def test_a_finished_run_is_sound(finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", finished.run_dir]) == 0
    assert "verify: 7 shards, 126 rows, 0 things wrong\n" in capsys.readouterr().out


def test_other_settings_are_refused_and_speed_settings_are_not(finished: Recipe, data: Path, tiny_sd: Path) -> None:
    run_dir = Path(finished.run_dir)
    with pytest.raises(UserError, match=r"score: pairs was 2, is now 3"):
        score.run(_recipe(run_dir, data, tiny_sd, pairs=3))
    score.run(_recipe(run_dir, data, tiny_sd, batch=3, micro_batch=8, rows_per_shard=5))


def _distilled(recipe: Recipe) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """The bytes of all images of the distilled sets, and the rows of their metadata."""
    distill.run(recipe)
    folder = Path(recipe.run_dir, "distilled")
    images = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    return images, [row for path in sorted(folder.rglob("metadata.parquet")) for row in pq.read_table(path).to_pylist()]


def test_four_actors_other_batches_and_another_order_give_the_same_scores_and_the_same_set(
    finished: Recipe, data: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    one = _recipe(tmp_path / "one", data, tiny_sd)
    shutil.copytree(finished.run_dir, one.run_dir)
    other = _recipe(tmp_path / "other", data, tiny_sd, batch=16, micro_batch=9, rows_per_shard=33, actors=4)
    index.run(other)
    run = Run(other.run_dir)
    listed = manifest.dataset(run).to_table(filter=pads.field("split") == "train")
    manifest.write(run, "train", listed.take(np.random.default_rng(0).permutation(len(listed))))
    score.run(other)
    rows, others = _scores(one), _scores(other)
    assert set(rows) == set(others)
    for image_id, row in rows.items():
        if row["error"] is None:
            assert row["typicality"] == pytest.approx(others[image_id]["typicality"], abs=1e-5)
            np.testing.assert_allclose(np.array(row["dift"]), np.array(others[image_id]["dift"]), atol=1e-3)
    (images, chosen), (other_images, other_chosen) = _distilled(one), _distilled(other)
    assert len(images) == 10 * (2 + 5)
    assert other_images == images
    assert len(chosen) == 10 * (2 * 4 + 5)
    for row, other_row in zip(chosen, other_chosen, strict=True):
        assert other_row == pytest.approx(row, abs=1e-5)


def test_scoring_before_indexing_names_the_command(tiny_sd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `ddps index` first"):
        score.run(_recipe(tmp_path / "run", tmp_path, tiny_sd))


def test_a_split_that_is_not_indexed_leaves_the_stage_free(finished: Recipe, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    indexed = Run(finished.run_dir).record()["stages"]["index"]
    storage.write_json(run.path("run.json"), {"stages": {"index": indexed}})
    wrong = finished.model_copy(
        update={"run_dir": run.uri, "data": finished.data.model_copy(update={"train": "trian"})}
    )
    with pytest.raises(UserError, match=r"^data\.train: the index in .*run has no split 'trian'$"):
        score.run(wrong)
    assert run.record()["stages"].keys() == {"index"}


def test_a_hundred_photographs_of_all_sizes(shared: Path, tiny_sd: Path, tmp_path: Path) -> None:
    values = {
        "run_dir": str(tmp_path / "run"),
        "data": {"root": str(shared), "train": "imagenet-samples", "val": None},
        "model": {"path": str(tiny_sd)},
        "distill": {"sets": {"ddps": {"ipc": [2, 5]}}, "clusters": 3, "top_clusters": 2, "mosaic_up_to": 2, "size": 32},
        "score": {"size": 64, "patch": 32, "pairs": 1, "judge": "skip", "max_aspect": 20},
    }
    recipe = parse(values, "test")
    index.run(recipe)
    score.run(recipe)
    rows = _scores(recipe)
    assert len(rows) == 100
    assert all(row["error"] is None for row in rows.values())
    assert len({(row["map_width"], row["map_height"]) for row in rows.values()}) > 5
    for row in rows.values():
        ratio = float(row["scaled_width"]) / float(row["scaled_height"])  # type: ignore[arg-type]
        assert ratio == pytest.approx(float(row["width"]) / float(row["height"]), rel=2 / 64)  # type: ignore[arg-type]
