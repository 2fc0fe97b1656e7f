"""Stage `relabel` on a real Ray: what it stores, what students then need, and what a second run does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ddps_ray import cli, planning_labels, schemas
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cells, evaluate, relabel
from ddps_ray.report import accuracy
from ddps_ray.storage import Run
from ddps_ray.students import labels, teachers
from tests.pipeline import test_evaluate as evaluation

FLOAT16: dict[str, Any] = {"logits": "float16"}
AWAY = "weights.away"
TWO = [{"arch": "convnet2", "width": 4}, {"arch": "convnet2", "width": 5}]


def recipe(run_dir: Path, **changes: Any) -> Recipe:
    """Mosaics of ten classes, single patches of two, and the latter as a foreign set; two students, one seed."""
    foreign = {"theirs": {"path": str(run_dir / "distilled" / "chance" / "ipc=12"), "classes": evaluation.SUBSET}}
    settings = {"labels": FLOAT16, "students": TWO, "seeds": [0], "foreign": foreign}
    return evaluation.recipe(run_dir, **settings | changes)


@pytest.fixture(scope="module")
def stored(ray_session: None, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run directory with labels, and without a teacher's weights."""
    folder = tmp_path_factory.mktemp("stored")
    made = recipe(folder / "run")
    evaluation.prepare(folder, scenes, made)
    with pytest.raises(
        UserError, match=r"evaluate\.labels: 3 of 3 label sets are not in .*/labels: run `ddps relabel`"
    ):
        evaluate.run(made)
    made_so_far = {path.name for path in Path(made.run_dir, "evaluation").iterdir()}
    assert made_so_far == {"foreign"}, "nothing was trained, and no teacher measured"
    relabel.run(made)
    weights = Path(made.run_dir, "teacher", teachers.WEIGHTS_FILE)
    weights.rename(weights.with_name(AWAY))
    return made


def folders(made: Recipe) -> list[Path]:
    return sorted(Path(made.run_dir, "labels").iterdir())


def files(made: Recipe) -> list[Path]:
    return sorted(Path(made.run_dir, "labels").glob("*/*.parquet"))


def described(made: Recipe) -> dict[str, dict[str, Any]]:
    found = [json.loads((folder / labels.DESCRIPTION_FILE).read_text()) for folder in folders(made)]
    return {each["set"]: each for each in found}


def test_two_students_share_the_labels_of_each_set(stored: Recipe) -> None:
    assert set(described(stored)) == {"typical", "chance", "theirs"}
    rows = {}
    for folder in folders(stored):
        about = json.loads((folder / labels.DESCRIPTION_FILE).read_text())
        tables = [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]
        kinds = schemas.labels(10 if about["set"] == "typical" else 2, None)
        rows[about["set"]] = [row for table in tables for row in schemas.check(table, kinds).to_pylist()]
        assert about["bytes"] == sum(file.stat().st_size for file in folder.glob("*.parquet"))
    assert {name: len(found) for name, found in rows.items()} == {"typical": 30, "chance": 72, "theirs": 72}
    assert all(row["swap_columns"] is not None for row in rows["typical"]), "mosaics are shuffled"
    assert all(row["swap_columns"] is None for row in rows["chance"])
    views = [[{**row, "logits": None} for row in rows[name]] for name in ("chance", "theirs")]
    assert views[0] == views[1], "the same images with the same seed"


def test_bytes_are_as_planned(stored: Recipe) -> None:
    about, run = described(stored), Run(stored.run_dir)
    planned = {kind.name.split()[0]: kind.labels.planned() for kind in planning_labels.kinds(stored, run)}
    assert set(planned) == {"typical", "chance"}
    for name, size in planned.items():
        assert size == pytest.approx(about[name]["bytes"], rel=0.05)


def test_students_learn_from_them_without_the_teacher(stored: Recipe, tmp_path: Path) -> None:
    evaluate.run(stored)
    found = evaluation.rows(stored)
    assert len(found) == 6
    about = described(stored)
    for row in found:
        assert row["label_bytes"] == about[row["set_name"]]["bytes"]
        assert json.loads(row["settings"])["labels"] == {"logits": "float16", "top": None}
        assert row["accuracy_teacher"] > 0, "that of the teacher, measured before labels were stored"
    assert "images and labels" in accuracy.table(Run(stored.run_dir))[0]


@pytest.mark.slow
def test_the_result_is_that_of_a_training_with_the_teacher(stored: Recipe, scenes: Path, tmp_path: Path) -> None:
    asking = recipe(tmp_path / "run", labels=None, sets=["typical"], students=TWO[:1], foreign={})
    evaluation.prepare(tmp_path, scenes, asking)
    evaluate.run(asking)
    (row,) = evaluation.rows(asking)
    assert row["label_bytes"] is None
    assert "labels" not in json.loads(row["settings"])
    evaluate.run(stored)
    (same,) = [
        each for each in evaluation.rows(stored) if (each["set_name"], each["student"]) == ("typical", "convnet2-w4")
    ]
    one_image = 1.01 / 59
    assert same["accuracy_last"] == pytest.approx(row["accuracy_last"], abs=one_image)
    assert same["accuracy_teacher"] == pytest.approx(row["accuracy_teacher"], abs=one_image)


@pytest.mark.slow
def test_a_second_run_makes_only_what_is_missing(
    stored: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel.run(stored)
    said = capsys.readouterr().out
    assert "relabel: 3 label sets of " in said
    assert "B, 3 of them already stored" in said
    shutil.copytree(stored.run_dir, tmp_path / "run")
    Path(tmp_path, "run", "teacher", AWAY).rename(tmp_path / "run" / "teacher" / teachers.WEIGHTS_FILE)
    made = stored.model_copy(update={"run_dir": str(tmp_path / "run")})
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files(made)}
    lost = files(made)[1]
    lost.unlink()
    files(made)[0].with_name(labels.DESCRIPTION_FILE).unlink()
    shutil.rmtree(tmp_path / "run" / "evaluation", ignore_errors=True)
    with pytest.raises(UserError, match="2 of 3 label sets are not in"):
        evaluate.run(made)
    relabel.run(made)
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files(made)}
    assert {file for file in after if after[file] != before[file]} == {lost}
    columns = [column for column in pq.read_schema(lost).names if column != "logits"]
    again = pq.read_table(lost)
    first = pq.read_table(pa.BufferReader(before[lost][0]))
    assert again.select(columns).equals(first.select(columns))
    logits = [row for table in (first, again) for row in table["logits"].to_pylist()]
    for one, other in zip(logits[: len(first)], logits[len(first) :], strict=True):
        assert other == pytest.approx(one, rel=2e-3, abs=1e-3)  # the number of threads may change a sum's last bit
    assert not list(Path(made.run_dir, "checkpoints").glob("relabel-*"))


def test_a_training_that_needs_other_labels_has_others(stored: Recipe) -> None:
    cfg, run = stored.evaluate, Run(stored.run_dir)
    changes: list[dict[str, Any]] = [
        {},
        {"seeds": (1,)},
        {"epochs": 2},
        {"cutmix": False},
        {"crop_scale": (0.2, 0.9)},
        {"batch": 5},
        {"precision": "bfloat16"},
        {"labels": cfg.labels.model_copy(update={"top": 1})} if cfg.labels else {},
    ]
    shared: list[dict[str, Any]] = [{"protocols": ("edc",), "batch": 10, "crop_scale": (0.2, 0.9)}]
    shared += [{"protocols": ("edc",), "batch": 10, "crop_scale": (0.2, 0.9), "weight_decay": 0.5}]

    def uris(change: dict[str, Any]) -> set[str]:
        made = stored.model_copy(update={"evaluate": cfg.model_copy(update={"sets": ("typical",)} | change)})
        return {each.uri for each in relabel.label_sets(made, run, cells.of(made))}

    apart = [uris(change) for change in changes]
    assert len(set.union(*apart)) == sum(map(len, apart)) == len(changes)
    assert uris(shared[0]) == uris(shared[1])
    assert uris({"protocols": ("hard",)}) == set()


def test_the_command_line_names_what_to_do(stored: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(stored.model_dump(mode="json", exclude_unset=True)))
    assert cli.main(["evaluate", "--config", str(file), "--set", "evaluate.labels={top: 1}"]) == 2
    assert capsys.readouterr().err.endswith("/labels: run `ddps relabel` first\n")
    assert cli.main(["relabel", "--config", str(file), "--set", "evaluate.labels=null"]) == 2
    assert capsys.readouterr().err.startswith("ddps: evaluate.labels: null: say what to store, {logits: float16} or")
    assert cli.main(["relabel", "--config", str(file), "--set", "evaluate.labels={logits: int3}"]) == 2
    assert "evaluate.labels" in capsys.readouterr().err
