"""Results over seeds: which rows are of the same cell, also where some are of before a column was written."""

from pathlib import Path
from typing import Any

import pytest

from ddps_ray import schemas, storage
from ddps_ray.report import accuracy
from ddps_ray.storage import Run
from tests.report.conftest import evaluation
from tests.report.rows import failure, row, run_with


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


def test_protocols_settings_and_sets_are_never_one_mean(tmp_path: Path) -> None:
    first = evaluation()[0] | {"accuracy_last": 0.5}
    others: list[dict[str, Any]] = [{"protocol": "hard"}, {"settings": '{"classes": 10, "batch": 5}'}, {"epochs": 9}]
    others += [{"set_digest": "changed"}, {"selector": "other"}, {"parts": 4}, {"dtype": "bfloat16"}]
    rows = [first, *(first | each | {"seed": seed, "accuracy_last": 0.1} for seed, each in enumerate(others, 1))]
    found = accuracy.results(_run(tmp_path, rows))
    assert sorted((each.seeds, round(each.last.mean, 3)) for each in found) == [(1, 0.1)] * 7 + [(1, 0.5)]
    assert not any(each.is_like(other) for each in found for other in found if each.protocol != other.protocol)


def test_rows_from_before_protocols_are_rdeds(tmp_path: Path) -> None:
    first = evaluation()[0]
    rows = [first | {"protocol": None, "set_digest": None}, first | {"seed": 1}]
    (found,) = accuracy.results(_run(tmp_path, rows))
    assert (found.protocol, found.seeds, found.set_digest) == ("rded", 2, first["set_digest"])


def test_a_seed_counts_once(tmp_path: Path) -> None:
    first = evaluation()[0]
    rows = [first | {"accuracy_last": 0.9, "class_digest": None}, first | {"accuracy_last": 0.4}]
    (found,) = accuracy.results(_run(tmp_path, rows))
    assert (found.seeds, found.last.std) == (1, None)
    assert found.last.mean == pytest.approx(0.4)


def test_the_best_is_a_distilled_set(tmp_path: Path) -> None:
    first = evaluation()[0]
    whole = first | {"set_name": "whole", "selector": "whole", "ipc": 900, "accuracy_last": 0.99}
    found = accuracy.best(accuracy.results(_run(tmp_path, [whole, first])))
    assert found is not None
    assert found.set_name == first["set_name"]


def test_the_table_names_protocols_and_settings_only_where_they_tell_lines_apart(tmp_path: Path) -> None:
    first = evaluation()[0]
    hard = first | {"protocol": "hard", "accuracy_teacher": 0.0}
    assert [line.split() for line in accuracy.table(_run(tmp_path / "one", [first]))] == [
        ["set", "ipc", "student", "accuracy", "%", "seeds", "images", "teacher", "%"],
        ["ddps", "1", "convnet3", "40.0", "1", "10", "95.0"],
    ]
    rows = [first, hard, hard | {"epochs": 100, "accuracy_last": 0.2}]
    assert [line.split() for line in accuracy.table(_run(tmp_path / "three", rows))] == [
        ["set", "ipc", "student", "protocol", "accuracy", "%", "seeds", "images", "teacher", "%", "settings"],
        ["ddps", "1", "convnet3", "hard", "20.0", "1", "10", "–", "epochs", "100"],
        ["ddps", "1", "convnet3", "rded", "40.0", "1", "10", "95.0"],
        ["ddps", "1", "convnet3", "hard", "40.0", "1", "10", "–", "epochs", "300"],
    ]


def test_failures_beside_the_rows_are_no_rows(tmp_path: Path) -> None:
    run = run_with(tmp_path, row(), failures=[failure()])
    assert [each.seeds for each in accuracy.results(run)] == [1]
