"""Scoring that goes on: after too many failures, with mended files, with more images, and without a lost shard."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddps_ray import manifest, schemas
from ddps_ray.config import Recipe, parse
from ddps_ray.errors import UserError
from ddps_ray.inspection import verify
from ddps_ray.inspection.beat import FAILED, FINISHED, Beat
from ddps_ray.pipeline import index, score
from ddps_ray.storage import Run

pytestmark = pytest.mark.usefixtures("ray_session")

BAD = {"train/leaf/bad.png", "train/sign/bad.png"}


def _recipe(run_dir: Path, data: Path, model: Path, max_error_fraction: float = 0.25) -> Recipe:
    settings = {"size": 32, "patch": 16, "pairs": 1, "judge": "skip", "batch": 4, "rows_per_shard": 5}
    return parse(
        {
            "run_dir": str(run_dir),
            "data": {"root": str(data), "val": None},
            "model": {"path": str(model)},
            "score": settings | {"max_error_fraction": max_error_fraction},
        },
        "test",
    )


def _shards(recipe: Recipe) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(recipe.run_dir, "scores").glob("*.parquet")}


def _rows(recipe: Recipe, names: set[str] | None = None) -> dict[str, dict[str, object]]:
    """Rows by their image, of all shards or of some."""
    paths = [path for path in Path(recipe.run_dir, "scores").glob("*.parquet") if names is None or path.name in names]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def _failed(rows: dict[str, dict[str, object]]) -> set[str]:
    return {image_id for image_id, row in rows.items() if row["error"] is not None}


def _sound(recipe: Recipe) -> bool:
    return verify.run(recipe.run_dir) == verify.SOUND


@pytest.fixture(scope="module")
def data(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sound images and a bad one of each of two classes."""
    root = tmp_path_factory.mktemp("data")
    for class_id in ("leaf", "sign"):
        (root / "train" / class_id).mkdir(parents=True)
        for number in range(5):
            place = f"train/{class_id}/{number:05d}.png"
            Image.open(scenes / place).resize((32, 32)).save(root / place)
        (root / "train" / class_id / "bad.png").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def finished(data: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run of all twelve; read only."""
    recipe = _recipe(tmp_path_factory.mktemp("finished") / "run", data, tiny_sd)
    index.run(recipe)
    score.run(recipe)
    assert _sound(recipe)
    return recipe


@pytest.fixture
def copied(finished: Recipe, data: Path, tiny_sd: Path, tmp_path: Path) -> Recipe:
    """A copy of the finished run, and of its data, to go on with."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return _recipe(tmp_path / "run", data, tiny_sd)


def test_the_shards_are_full_but_one_and_sorted_by_class(finished: Recipe) -> None:
    shards = [pq.read_table(path).to_pylist() for path in Path(finished.run_dir, "scores").glob("*.parquet")]
    assert sorted(map(len, shards)) == [2, 5, 5]
    for rows in shards:
        order = [(row["class_id"], row["image_id"]) for row in rows]
        assert order == sorted(order)


def test_too_many_failures_end_the_job_and_what_is_scored_stays_scored(
    data: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    strict, lenient = (_recipe(tmp_path / "run", data, tiny_sd, fraction) for fraction in (0.1, 0.25))
    run = Run(strict.run_dir)
    index.run(strict)
    with pytest.raises(UserError, match=r"max_error_fraction: 2 of 12 images failed, more than 0\.1;"):
        score.run(strict)
    beat = Beat.read(run)
    assert beat is not None
    before = _shards(strict)
    # Whether it was told at the end, or on a slow machine by a heartbeat before, all that is in shards is safe.
    assert (beat.state, beat.safe, beat.errors) == (FAILED, len(_rows(strict)), 2)
    score.run(lenient)
    after = _shards(lenient)
    assert {name: after[name] for name in before} == before
    beat = Beat.read(run)
    assert beat is not None
    assert (beat.state, beat.before, beat.scored, beat.safe) == (
        FINISHED,
        len(_rows(strict, set(before))),
        12 - beat.before,
        12,
    )
    assert _sound(lenient)


def test_after_a_file_was_mended_only_the_failed_images_are_tried_again(
    copied: Recipe, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, kept = _rows(copied), _shards(copied)
    untouched = {name: data for name, data in kept.items() if not BAD & set(_rows(copied, {name}))}
    assert untouched
    bad = data / "train" / "leaf" / "bad.png"
    shutil.copy(data / "train" / "leaf" / "00000.png", bad)
    try:
        score.run(copied, retry_failed=True)
    finally:
        bad.write_bytes(b"")
    after, shards = _rows(copied), _shards(copied)
    assert set(_rows(copied, set(shards) - set(kept))) == BAD
    assert {image_id: row for image_id, row in after.items() if image_id not in BAD} == {
        image_id: row for image_id, row in before.items() if image_id not in BAD
    }
    assert _failed(after) == {"train/sign/bad.png"}
    assert {name: shards[name] for name in untouched} == untouched
    assert "trying 2 images of the quarantine again" in capsys.readouterr().out
    quarantine = pq.read_table(Path(copied.run_dir, "quarantine", "score.parquet"))
    assert quarantine["image_id"].to_pylist() == ["train/sign/bad.png"]
    assert _sound(copied)


def test_of_a_manifest_that_has_grown_only_the_new_images_are_scored(copied: Recipe) -> None:
    run, before = Run(copied.run_dir), _shards(copied)
    listed = manifest.dataset(run).to_table()
    some = listed.filter(pc.starts_with(listed["image_id"], "train/sign/0000"))
    ids = [image_id.replace("0000", "1000") for image_id in some["image_id"].to_pylist()]
    more = some.set_column(0, schemas.MANIFEST.field("image_id"), pa.array(ids))
    files = [*run.require("index", "index")["files"], *manifest.write(run, "train", more, first=1)]
    run.finish("index", {"files": files, "splits": {"train": 17}, "fingerprint": "of 17 images"})
    score.run(copied)
    after = _shards(copied)
    assert {name: after[name] for name in before} == before
    assert set(_rows(copied, set(after) - set(before))) == set(ids)
    assert run.require("score", "score")["images"] == 17
    assert _sound(copied)


def test_a_shard_that_was_lost_after_the_end_is_made_again(copied: Recipe) -> None:
    before, shards = _rows(copied), _shards(copied)
    lost, *others = sorted(shards)
    Path(copied.run_dir, "scores", lost).unlink()
    cut = Path(copied.run_dir, "scores", others[0])
    cut.write_bytes(cut.read_bytes()[:100])
    score.run(copied)
    after = _rows(copied)
    assert set(after) == set(before)
    assert _failed(after) == BAD
    for image_id, row in after.items():
        if row["error"] is None:
            assert row["typicality"] == pytest.approx(before[image_id]["typicality"], abs=1e-5)
    assert _shards(copied)[others[1]] == shards[others[1]]
    assert _sound(copied)
