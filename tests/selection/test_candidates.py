"""Score rows become one class's candidates: all of its scored images, no other's, in one order."""

from pathlib import Path

import numpy as np
import pytest

from ddps_ray import storage
from ddps_ray.selection.candidates import read_class, shards_by_class
from tests.selection.rows import candidates, failed, score_table, scored


def test_rows_are_ordered_by_image_id_and_failures_left_out() -> None:
    found = candidates([scored("b", 1, 0.1, 0.5, left=3, top=4), failed("a"), scored("a2", 0, 0.0, -0.25)])
    assert found.image_ids == ("a2", "b")
    assert found.typicality.tolist() == [-0.25, 0.5]
    assert (found.box(1), found.scaled[1].tolist()) == ((3, 4, 48, 48), [96, 64])
    assert (found.class_id, found.label, found.uris[0]) == ("leaf", 6, "/nowhere/a2")
    np.testing.assert_allclose(found.dift[1][[1, 7]], [3, 0.3], atol=1e-3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([scored("a", 0, 0, 1), scored("a", 0, 0, 1)], "scored twice"),
        ([scored("a", 0, 0, 1), scored("b", 0, 0, float("nan"))], "b: its typicality or feature is not a finite"),
        ([scored("a", 0, float("inf"), 1)], "a: its typicality or feature is not a finite"),
        ([scored("a", 0, 0, 1), scored("b", 0, 0, 1, class_id="boat")], "exactly one class"),
        ([failed("a")], "exactly one class"),
    ],
)
def test_rows_that_cannot_be_chosen_from_are_refused(rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        candidates(rows)


def test_a_class_is_read_from_the_shards_that_hold_it(tmp_path: Path) -> None:
    shards = {
        "one": [scored("a", 0, 0, 1), scored("b", 0, 0, 2), failed("c")],
        "two": [scored("d", 0, 0, 3), scored("e", 0, 0, 4, class_id="boat")],
        "three": [scored("f", 0, 0, 5, class_id="boat"), failed("g", class_id="arch")],
    }
    for name, rows in shards.items():
        storage.write_table(str(tmp_path / f"{name}.parquet"), score_table(rows))
    found = shards_by_class(str(tmp_path))
    assert {
        class_id: {Path(path).stem: count for path, count in files.items()} for class_id, files in found.items()
    } == {
        "leaf": {"one": 2, "two": 1},
        "boat": {"two": 1, "three": 1},
    }
    assert read_class(str(tmp_path), list(found["leaf"]), "leaf").image_ids == ("a", "b", "d")
    assert shards_by_class(str(tmp_path / "absent")) == {}
