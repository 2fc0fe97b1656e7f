"""Coverage of true boxes, against counting pixels one by one and against sums by hand."""

from pathlib import Path

import numpy as np
import pytest

from ddps_ray import score_rows, storage
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.quickstart.objects import BOXES_FILE, SIDE
from ddps_ray.report import localisation
from ddps_ray.report.localisation import Localisation
from ddps_ray.storage import Run
from tests.report.conftest import CELL, PATCH, Boxes, best_window, synthetic_map


def pixels(box: tuple[int, int, int, int], left: int, top: int) -> float:
    """Share of the box's pixels that are in the patch, counted."""
    inside = 0
    for x in range(box[0], box[2]):
        for y in range(box[1], box[3]):
            inside += left <= x < left + PATCH and top <= y < top + PATCH
    return inside / ((box[2] - box[0]) * (box[3] - box[1]))


def by_name(found: Localisation, measure: str) -> dict[str, float]:
    return {place.name: getattr(place, measure).mean for place in found.placements}


def test_equals_counting_pixels(whole_run: Recipe, scenes: Path, true_boxes: Boxes) -> None:
    found = localisation.measure(Run(whole_run.run_dir), str(scenes / BOXES_FILE))

    train = sorted(image_id for image_id in true_boxes if image_id.startswith("train/"))
    failed = next(image_id for image_id in true_boxes if image_id.startswith("train/"))
    train.remove(failed)  # the fixture's first image could not be scored
    counted: dict[str, list[float]] = {"chosen": [], "centred": [], "lowest": []}
    every_window, variance = [], 0.0
    for image_id in train:
        box, map_HW = true_boxes[image_id], synthetic_map(image_id, true_boxes[image_id])
        for name, worst in (("chosen", False), ("lowest", True)):
            row, column, _ = best_window(map_HW, PATCH // CELL, worst)
            counted[name].append(pixels(box, column * CELL, row * CELL))
        counted["centred"].append(pixels(box, (SIDE - PATCH) // 2, (SIDE - PATCH) // 2))
        places = range(0, SIDE - PATCH + 1, CELL)
        shares = [pixels(box, left, top) for left in places for top in places]
        every_window.append(float(np.mean(shares)))
        variance += float(np.var(shares))

    assert found.images == len(train) == 119
    coverage, holds = by_name(found, "coverage"), by_name(found, "holds")
    for name, shares in counted.items():
        assert coverage[name] == pytest.approx(np.mean(shares))
        assert holds[name] == pytest.approx(np.mean([share >= 0.8 for share in shares]))
    # where the random patch falls is arbitrary, but all windows are as likely: four standard errors
    assert abs(coverage["random"] - np.mean(every_window)) < 4 * variance**0.5 / len(train)
    assert found.gain.mean == pytest.approx(coverage["chosen"] - coverage["random"])
    assert found.gain.low > 0.2  # the fixture's maps peak at most of the objects

    chosen = found.placements[0].coverage
    half = 1.96 * float(np.std(counted["chosen"])) / len(train) ** 0.5
    assert (chosen.high - chosen.low) / 2 == pytest.approx(half, rel=0.15)
    assert chosen.low < chosen.mean < chosen.high

    lines = found.describe()
    assert "119 images" in lines[0]
    assert f"coverage: {coverage['chosen']:.3f} [{chosen.low:.3f}, {chosen.high:.3f}]" in lines[1]
    behind = by_name(found, "behind")
    for name, shares in counted.items():
        assert behind[name] == pytest.approx(np.mean(np.subtract(counted["chosen"], shares)))
    assert f"coverage, most typical minus random patch: {found.gain}" in lines


def test_boxes_are_scaled_from_the_original(tmp_path: Path) -> None:
    score_one(tmp_path, map_values=None)
    boxes = write(tmp_path, "image_id,left,top,right,bottom\na,100,0,200,100\n")
    found = localisation.measure(Run(str(tmp_path / "run")), boxes)
    # 200×100 was scored at 128×64: the box is 64..128, the patch 32..96 holds half of it
    assert by_name(found, "coverage")["chosen"] == pytest.approx(0.5)
    assert by_name(found, "coverage")["centred"] == pytest.approx(0.5)
    assert "lowest" not in by_name(found, "coverage")  # no map is stored


def test_least_typical_patch_comes_from_the_map(tmp_path: Path) -> None:
    columns = np.arange(8, dtype=np.float16)[::-1]  # T falls from left to right: the worst window is the right half
    score_one(tmp_path, map_values=np.tile(columns, 4))
    boxes = write(tmp_path, "image_id,left,top,right,bottom\na,100,0,200,100\n")
    assert by_name(localisation.measure(Run(str(tmp_path / "run")), boxes), "coverage")["lowest"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,left,top,right\na,1,2,3\n", "bottom"),
        ("image_id,left,top,right,bottom\na,1,2,x,4\n", "invalid value 'x"),
        ("image_id,left,top,right,bottom\na,5,2,5,4\n", "the box of a is empty"),
        ("image_id,left,top,right,bottom\na,1,2,3,4\na,1,2,3,4\n", "a has two boxes"),
        ("image_id,left,top,right,bottom\nother,1,2,3,4\n", "none of its image_id"),
        (None, "cannot be read"),
    ],
)
def test_unusable_boxes_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    score_one(tmp_path, map_values=None)
    boxes = write(tmp_path, text) if text else str(tmp_path / "nowhere.csv")
    with pytest.raises(UserError) as raised:
        localisation.measure(Run(str(tmp_path / "run")), boxes)
    assert message in str(raised.value)
    assert boxes in str(raised.value)
    assert "\n" not in str(raised.value)


def test_window_means() -> None:
    map_HW = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert localisation.window_means(map_HW, 2, 3).tolist() == [[3.5], [6.5]]
    assert localisation.window_means(map_HW, 2, 2).tolist() == [[3, 4], [6, 7]]


def score_one(folder: Path, map_values: np.ndarray | None) -> None:
    row = score_rows.make(
        **{"image_id": "a", "uri": "u", "class_id": "c", "label": 0, "width": 200, "height": 100},
        **{"scaled_width": 128, "scaled_height": 64, "left": 32, "top": 0, "patch_width": 64, "patch_height": 64},
        **{"typicality": 0.1, "typicality_image": 0.0, "map_width": 8, "map_height": 4, "map": map_values},
    )
    rows = score_rows.table([row], 8)
    storage.write_table(str(folder / "run" / "scores" / "0.parquet"), rows)


def write(folder: Path, text: str) -> str:
    path = folder / "boxes.csv"
    path.write_text(text)
    return str(path)
