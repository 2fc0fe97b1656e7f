"""Stage `score` tries its judge first: at chance nothing is scored, and what was found is kept in the record."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray import config
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import index, score
from ddps_ray.storage import Run
from ddps_ray.verdict import Verdict

pytestmark = pytest.mark.usefixtures("ray_session")


def _recipe(folder: Path, scenes: Path, model: str, **settings: Any) -> Recipe:
    values = {
        "run_dir": str(folder / "run"),
        "data": {"root": str(scenes), "val": None},
        "model": {"path": model},
        "score": {"size": 64, "patch": 32, "pairs": 2, "timesteps": [700, 950], **settings},
    }
    return config.parse(values, "test")


def _verdict(recipe: Recipe) -> Verdict:
    return Verdict.from_json(Run(recipe.run_dir).record()["stages"]["score"]["judge"])


def test_a_model_at_chance_ends_the_job_unless_the_recipe_goes_on(
    tmp_path: Path, scenes: Path, tiny_sd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(tmp_path, scenes, str(tiny_sd), pairs=1)
    index.run(recipe)
    with pytest.raises(UserError, match=r"^model\.path: the judge prefers .* Likely cause: .* score\.judge=warn$"):
        score.run(recipe)
    assert not (tmp_path / "run" / "scores").exists()
    assert _verdict(recipe).is_chance
    capsys.readouterr()
    going_on = _recipe(tmp_path, scenes, str(tiny_sd), pairs=1, judge="warn", rows_per_shard=50)
    score.run(going_on)
    assert "score: warning: model.path: the judge prefers" in capsys.readouterr().out
    assert Run(recipe.run_dir).summary("score")["scored"] == 120  # type: ignore[index]


def test_a_judge_is_tried_once_and_its_speed_makes_the_shards(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(tmp_path, scenes, "quickstart")
    index.run(recipe)
    score.run(recipe)
    said = capsys.readouterr().out
    assert "score: trying the judge on 100 images" in said
    assert _verdict(recipe).is_judge
    assert len(list((tmp_path / "run" / "scores").glob("*.parquet"))) == 1, "120 images are less than five minutes"
    for shard in (tmp_path / "run" / "scores").glob("*.parquet"):
        shard.unlink()
    score.run(recipe)
    assert "trying the judge" not in capsys.readouterr().out


def test_what_does_not_suit_is_said_or_refused_before_the_judge_is_tried(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = _recipe(tmp_path, scenes, "quickstart", prompt="an image of an image of an image of {}")
    index.run(long)
    with pytest.raises(UserError, match=r"score\.prompt: the text encoder reads 8 tokens"):
        score.run(long)
    said = capsys.readouterr().out
    assert "trying the judge" not in said
    score.run(_recipe(tmp_path, scenes, "quickstart", prompt="image of {}"))
    assert "score: warning: score.null_prompt: still 'An image of .'" in capsys.readouterr().out
