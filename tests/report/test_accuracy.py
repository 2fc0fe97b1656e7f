"""Results over seeds: which rows are of the same cell, also where some are of before a column was written."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray import schemas, storage
from ddps_ray.report import accuracy
from ddps_ray.storage import Run
from tests.report.conftest import evaluation


def _run(folder: Path, rows: list[dict[str, Any]]) -> Run:
    table = schemas.table({name: [row[name] for row in rows] for name in schemas.EVALUATION.names}, schemas.EVALUATION)
    for number in range(len(rows)):
        row = table.slice(number, 1)
        earlier = row["class_digest"].null_count == 1
        storage.write_table(str(folder / f"evaluation/{number}.parquet"), row.drop("class_digest") if earlier else row)
    return Run(str(folder))


def test_seeds_of_before_and_after_the_classes_were_recorded_are_one_result(tmp_path: Path) -> None:
    first = evaluation()[0]
    earlier = [first | {"seed": seed, "accuracy_last": 0.4, "class_digest": None} for seed in range(3)]
    later = [first | {"seed": seed, "accuracy_last": 0.6} for seed in (3, 4)]
    (found,) = accuracy.results(_run(tmp_path, [*earlier, *later]))
    assert (found.seeds, found.class_digest) == (5, "all")
    assert found.last.mean == pytest.approx((3 * 0.4 + 2 * 0.6) / 5)


def test_sets_of_different_classes_stay_apart_and_unknown_ones_beside_them(tmp_path: Path) -> None:
    first = evaluation()[0]
    rows = [first | {"seed": seed, "class_digest": digest} for seed, digest in enumerate([None, "a", "b", "a"])]
    found = accuracy.results(_run(tmp_path, rows))
    assert {each.class_digest: each.seeds for each in found} == {None: 1, "a": 2, "b": 1}
