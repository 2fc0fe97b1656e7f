"""Model, settings and class names that do not suit each other are refused, or said, before any weights are read."""

from importlib import resources
from pathlib import Path

import pytest

from ddps_ray.config import Score
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion.suitability import doubts
from ddps_ray.errors import UserError

FOLDER = Path(str(resources.files("ddps_ray.quickstart") / "weights"))
"""Its text encoder reads eight tokens, begin and end included, and its U-Net was trained at 64 px."""

SMALL = {"size": 64, "patch": 32}


def said(**settings: object) -> list[str]:
    return doubts(FOLDER, Score.model_validate({**SMALL, **settings}), {"f": "fish", "b": "ball"})


def test_what_suits_is_not_spoken_of() -> None:
    assert checkpoints.tokenizer(FOLDER).model_max_length == 8
    assert checkpoints.geometry(FOLDER).trained_size == 64
    assert said() == []


@pytest.mark.parametrize("words", [7, 80])
def test_a_class_that_is_cut_off_is_refused(words: int) -> None:
    with pytest.raises(UserError, match=r"score\.prompt: the text encoder reads 8 tokens, .* 'fish' \(f\)"):
        said(prompt=" ".join(["image"] * words) + " {}", null_prompt="image")
    with pytest.raises(UserError, match="shorten the prompt, or the name"):
        doubts(FOLDER, Score.model_validate(SMALL), {"f": "fish", "x": "ball of leaf of sign of gem"})


def test_an_end_that_is_cut_off_is_said() -> None:
    (line,) = said(prompt="An image of {} of an image of", null_prompt="image")
    assert line.startswith("score.prompt: the end of the prompt is cut off after 8 tokens, in 2 classes: 'fish'")
    assert said(prompt="An image of {} of an", null_prompt="image") == []  # eight tokens


def test_a_prompt_that_was_changed_alone_is_said() -> None:
    (line,) = said(prompt="image of an {}")
    assert line.startswith("score.null_prompt: still 'An image of .', while score.prompt is 'image of an {}'")
    assert said(prompt="image of an {}", null_prompt="image of an") == []
    assert said(null_prompt="") == []


@pytest.mark.parametrize(("size", "suits"), [(32, True), (64, True), (28, False), (96, False), (256, False)])
def test_a_size_that_the_model_was_not_trained_for_is_said(size: int, suits: bool) -> None:
    lines = said(size=size, patch=16)
    assert (lines == []) == suits
    assert all("32 to 64 px suit it" in line for line in lines)


def test_names_that_are_the_same_to_the_text_encoder_are_said() -> None:
    (line,) = doubts(FOLDER, Score.model_validate(SMALL), {"a": "fish", "b": "Fish", "c": "ball"})
    assert line == "classes called 'Fish' and 'fish' have the same prompt to the text encoder"
