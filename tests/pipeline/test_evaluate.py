"""Stage `evaluate` on a real Ray: the rows, what a second run does, and what it refuses."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from ddps_ray import schemas
from ddps_ray.config import Network, Recipe, Student, Teacher
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cells, evaluate, materials, teacher
from ddps_ray.report import accuracy
from ddps_ray.storage import Run
from ddps_ray.students import data, foreign, networks, sets, teachers, training
from ddps_ray.students.protocols import Facts, resolve
from ddps_ray.students.training import Means, Training
from tests.students import curves, inputs

CPU = torch.device("cpu")
SUBSET = ["fish", "gem"]


def recipe(run_dir: Path, **evaluation: Any) -> Recipe:
    values = {
        "run_dir": str(run_dir),
        "data": {"root": "unused"},
        "model": {"path": "quickstart"},
        "distill": {
            "sets": {"typical": {"ipc": [1]}, "chance": {"selector": "random", "ipc": [12], "classes": SUBSET}}
        },
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}},
        "evaluate": {
            "size": 16,
            "students": [{"arch": "convnet2", "width": 4}],
            "seeds": [0, 1],
            "epochs": 3,
            **evaluation,
        },
    }
    return Recipe.model_validate(values)


def prepare(folder: Path, scenes: Path, recipe: Recipe) -> Run:
    """A run with a manifest, one of whose validation images is broken, a teacher, and the distilled sets."""
    images = folder / "data"
    for split in ("train", "val"):
        for file in (scenes / split).glob("*/*.png"):
            (target := images / split / file.parent.name).mkdir(parents=True, exist_ok=True)
            (target / file.name).hardlink_to(file)
    broken = images / "val" / "gem" / "00000.png"
    broken.unlink()
    broken.write_bytes(b"no image")
    run = inputs.indexed(Path(recipe.run_dir), images)
    classes = data.class_ids(run, "train")
    torch.manual_seed(0)
    network = networks.build(recipe.teacher.model, 10, 16)
    teachers.save(network, run.path("teacher"), recipe.teacher.model, classes, None)
    run.claim("teacher", teacher.settings(recipe))
    run.finish("teacher", {"accuracy": None, "classes": 10})
    inputs.distilled(run, images, "typical", 1, classes, 4, recipe)
    inputs.distilled(run, images, "chance", 12, SUBSET, 1, recipe)
    return run


@pytest.fixture(scope="module")
def evaluated(ray_session: None, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run directory with all students trained."""
    folder = tmp_path_factory.mktemp("evaluated")
    made = recipe(folder / "run")
    prepare(folder, scenes, made)
    evaluate.run(made)
    return made


def rows(recipe: Recipe) -> list[dict[str, Any]]:
    files = sorted(Path(recipe.run_dir, "evaluation").glob("*.parquet"))
    tables = [schemas.check(pq.read_table(file), schemas.EVALUATION) for file in files]
    return [row for table in tables for row in table.to_pylist()]


def test_there_is_a_row_for_each_set_ipc_student_and_seed(evaluated: Recipe) -> None:
    made = {(row["set_name"], row["selector"], row["ipc"], row["seed"], row["images"]) for row in rows(evaluated)}
    assert len(rows(evaluated)) == 4
    assert made == {
        (name, selector, ipc, seed, images)
        for name, selector, ipc, images in [
            ("typical", "ddps", 1, 10),
            ("chance", "random", 12, 24),
        ]
        for seed in (0, 1)
    }
    for row in rows(evaluated):
        assert (row["teacher"], row["student"], row["epochs"]) == ("convnet2-w8", "convnet2-w4", 3)
        assert 0 <= row["accuracy_last"] <= row["accuracy_best"] <= 1
        assert json.loads(row["settings"])["temperature"] == 20


def test_row_is_what_the_training_gives_without_ray(evaluated: Recipe) -> None:
    run, cfg = Run(evaluated.run_dir), evaluated.evaluate
    distilled = sets.load_distilled(run.path("distilled", "chance", "ipc=12"), SUBSET, 16)
    val = data.load_validation(run, "val", SUBSET, 16)
    guide = teachers.load(evaluated.teacher, run.path("teacher"), SUBSET, 16)
    torch.manual_seed(1)
    student = networks.build(cfg.students[0], 2, 16)
    (cell,) = (cell for cell in cells.of(evaluated) if (cell.set.ipc, cell.seed) == (12, 1))
    work = Training(student, guide, distilled, cell.protocol, 1, Means(16))
    outcome = work.run(lambda network: training.accuracy(network, val, CPU))
    row = next(row for row in rows(evaluated) if (row["ipc"], row["seed"]) == (12, 1))
    assert outcome is not None
    one_image = 1.01 / 11  # the number of threads may change a sum in its last bit, and with it one image
    assert row["accuracy_last"] == pytest.approx(outcome.accuracy_last, abs=one_image)
    assert row["accuracy_teacher"] == pytest.approx(training.accuracy(guide, val, CPU), abs=one_image)


def test_bad_validation_image_is_in_quarantine_once(evaluated: Recipe) -> None:
    files = sorted(Path(evaluated.run_dir, "quarantine").glob("*.parquet"))
    bad = [row for file in files for row in schemas.check(pq.read_table(file), schemas.QUARANTINE).to_pylist()]
    assert [(row["image_id"], row["stage"], row["reason"]) for row in bad] == [
        ("val/gem/00000.png", "evaluate", "not an image")
    ]


def test_curves_end_in_what_the_row_says(evaluated: Recipe) -> None:
    found = sorted(Path(evaluated.run_dir, "tensorboard").rglob("*tfevents*"))
    assert len(found) == 4
    for row in rows(evaluated):
        title = f"{row['set_name']}/ipc={row['ipc']}/convnet2-w4/rded/seed={row['seed']}_*"
        (folder,) = Path(evaluated.run_dir, "tensorboard").glob(title)
        made = curves.scalars(folder)
        assert [step for step, _ in made["loss"]] == [1, 2, 3]
        # Half a cosine, as by RDED: 1e-3 · (1 + cos(π · e / 6)) / 2
        assert [value for _, value in made["learning_rate"]] == pytest.approx([1e-3, 0.9330127e-3, 0.75e-3])
        ((step, measured),) = made["accuracy"]
        assert step == 3
        assert measured == pytest.approx(row["accuracy_last"])


def test_second_run_trains_only_what_is_missing(evaluated: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(evaluated.run_dir, "evaluation")
    lost = next(file for file in sorted(folder.glob("*.parquet")) if "typical" in file.name)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    row = pq.read_table(lost).to_pylist()
    lost.unlink()
    evaluate.run(evaluated)
    assert "4 students, 3 of them already finished" in capsys.readouterr().out
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {lost.name}
    again = pq.read_table(lost).to_pylist()
    assert again[0]["accuracy_last"] == pytest.approx(row[0]["accuracy_last"], abs=1.01 / 59)
    evaluate.run(evaluated)
    said = capsys.readouterr().out
    assert "4 students, 4 of them already finished" in said
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == after


def test_states_of_finished_students_are_deleted_and_no_others(evaluated: Recipe, tmp_path: Path) -> None:
    shutil.copytree(evaluated.run_dir, tmp_path / "run")
    made = evaluated.model_copy(update={"run_dir": str(tmp_path / "run")})
    finished = {evaluate._group_name(cell, apart) for cell in cells.of(made) for apart in (True, False)}
    for name in {"evaluate-of-another-recipe", "score-0"} | finished:  # as a kill leaves them after the last row
        (tmp_path / "run" / "checkpoints" / name / "checkpoint_2").mkdir(parents=True)
    evaluate.run(made)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["evaluate-of-another-recipe", "score-0"]


def test_table_shows_mean_and_sample_deviation(evaluated: Recipe) -> None:
    lines = accuracy.table(Run(evaluated.run_dir))
    assert lines[0].split()[:4] == ["set", "ipc", "student", "accuracy"]
    first, second = (row["accuracy_last"] for row in rows(evaluated) if row["set_name"] == "typical")
    mean, deviation = 50 * (first + second), 100 * abs(first - second) / 2**0.5
    line = next(line for line in lines if line.startswith("typical"))
    assert line.split()[:8] == ["typical", "1", "convnet2-w4", f"{mean:.1f}", "±", f"{deviation:.1f}", "2", "10"]


def test_a_later_setting_lies_beside_the_earlier_one(
    evaluated: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(evaluated.run_dir, tmp_path / "run")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run" / "evaluation").glob("*.parquet")}
    cfg = evaluated.evaluate.model_copy(update={"epochs": 4, "sets": ("typical",), "protocols": ("rded", "hard")})
    changed = evaluated.model_copy(update={"run_dir": str(tmp_path / "run"), "evaluate": cfg})
    evaluate.run(changed)
    assert "evaluate: 4 students, 0 of them already finished" in capsys.readouterr().out
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run" / "evaluation").glob("*.parquet")}
    assert before.items() <= after.items()
    later = [row for row in rows(changed) if row["epochs"] == 4]
    assert (
        sorted((row["protocol"], row["teacher"]) for row in later)
        == [("hard", "none")] * 2 + [("rded", "convnet2-w8")] * 2
    )
    assert all(row["seconds"] > 0 and row["memory"] > 1e8 and row["set_bytes"] > 1000 for row in later)


def test_a_student_that_fails_leaves_the_others_whole(
    evaluated: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(evaluated.run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    made = evaluated.model_copy(update={"run_dir": str(tmp_path / "run")})
    file = tmp_path / "run" / "distilled" / "typical" / "ipc=1" / "train" / "gem" / "00000.png"
    whole = file.read_bytes()
    file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 of 4 students could not be trained; why is in .*/evaluation/failed$"):
        evaluate.run(made)
    assert {row["set_name"] for row in rows(made)} == {"chance"}
    failed = [pq.read_table(path) for path in (tmp_path / "run" / "evaluation" / "failed").iterdir()]
    assert [schemas.check(table, schemas.FAILURE)["seed"].to_pylist() for table in failed] in ([[0], [1]], [[1], [0]])
    assert all("gem/00000.png: not an image" in table["reason"][0].as_py() for table in failed)
    file.write_bytes(whole)
    capsys.readouterr()
    evaluate.run(made)
    assert "4 students, 2 of them already finished" in capsys.readouterr().out
    assert len(rows(made)) == 4
    assert not list((tmp_path / "run" / "evaluation" / "failed").iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"root": "unused", "val": None}}, r"data\.val: null"),
        ({"distill": {"sets": {"other": {"ipc": [1]}}}}, r"no finished distill/other/ipc=1 stage: run `ddps distill`"),
        ({"evaluate": {"ipc": [7]}}, r"no set has an IPC of \[7\]"),
        ({"evaluate": {"students": [{"arch": "nosuchnet"}], "size": 16}}, "no network 'nosuchnet'"),
        ({"evaluate": {"students": [{"arch": "convnet2"}] * 2, "size": 16}}, "convnet2 is there twice"),
        (
            {"evaluate": {"students": [{"arch": "convnet2"}], "size": 16, "workers": 6}},
            r"evaluate\.workers: 6 workers cannot share batches of 10 images: give 5 at most",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(evaluated: Recipe, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluate.run(Recipe.model_validate(evaluated.model_dump() | changes))


def test_trained_teacher_must_be_there(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    made = recipe(tmp_path / "run", sets=["typical"])
    inputs.distilled(run, scenes, "typical", 1, data.class_ids(run, "train"), 4, made)
    with pytest.raises(UserError, match="no finished teacher stage: run `ddps teacher`"):
        evaluate.run(made)


@pytest.fixture
def tf32() -> Iterator[None]:
    """A process in which TF32 is allowed everywhere."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(("precision", "reduced"), [("float32", False), ("auto", True)])
def test_float32_is_not_tf32(scenes: Path, tmp_path: Path, tf32: None, precision: str, reduced: bool) -> None:
    made = recipe(tmp_path / "run", sets=["chance"], precision=precision)
    prepare(tmp_path, scenes, made)
    materials.measure_teacher(made, cells.of(made)[0])  # as a worker of its own does
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (reduced, reduced)


def test_what_fits_by_the_plan_is_not_cut_because_of_what_is_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, total = 12 << 30, 22 << 30  # an L4 on which a set, validation images and the teacher are
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    made = recipe(tmp_path, size=224, precision="bfloat16").model_copy(
        update={"teacher": Teacher(model=Network(arch="resnet18"))}
    )
    about = cells.Trained("ddps", "ddps", 50, tuple(f"n{n:08d}" for n in range(1000)), "", 50_000, False, "", 1)
    facts = Facts(50, 1000, 50_000, False, 224, "imagenet", "resnet18")
    student = Student(arch="resnet101")
    protocol = resolve("rded", made.evaluate, facts, student)
    assert protocol.batch == 200
    parts, needed = evaluate._parts(
        made, cells.Cell(about, "", "resnet18", student, protocol, 0, ""), torch.device("cuda")
    )
    assert parts == 1
    assert needed / 2**30 == pytest.approx(15.0, abs=0.05)  # the memory of the plan


def test_two_workers_train_one_student(ray_session: None, scenes: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path / "run", sets=["chance"], seeds=[0], workers=2, tensorboard=False)
    prepare(tmp_path, scenes, made)
    evaluate.run(made)
    (row,) = rows(made)
    alone = recipe(tmp_path / "run", sets=["chance"], seeds=[0])
    (cell,) = cells.of(alone)
    assert cell.is_done(Run(alone.run_dir)), "it is the same on any number of workers"
    assert row["images"] == 24
    assert not Path(made.run_dir, "tensorboard").exists()
    Path(alone.run_dir, "evaluation", cell.file).unlink()
    evaluate.run(alone)
    (of_one,) = rows(alone)
    one_image = 1.01 / 11  # as a sum in another order may change
    assert row["accuracy_last"] == pytest.approx(of_one["accuracy_last"], abs=one_image)


def test_the_whole_training_split_is_a_set_of_its_own(ray_session: None, scenes: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path / "run", sets=["chance"], seeds=[0], whole=True, protocols=["hard"])
    prepare(tmp_path, scenes, made)
    evaluate.run(made)
    found = {row["set_name"]: (row["selector"], row["ipc"], row["images"], row["set_bytes"]) for row in rows(made)}
    assert found["whole"] == ("whole", 12, 24, None)


def test_an_own_set_that_has_changed_since_is_not_filed_under_its_old_digest(scenes: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path / "run", sets=["chance"], seeds=[0])
    run = prepare(tmp_path, scenes, made)
    (cell,) = cells.of(made)
    assert len(materials.load_set(made, run, cell.set)) == 24
    inputs.distilled(run, scenes, "chance", 12, SUBSET, 4, made)
    with pytest.raises(UserError, match=r"distilled/chance/ipc=12 has changed since the evaluation began"):
        materials.load_set(made, run, cell.set)


def test_labels_of_a_foreign_set_are_tried_on_its_teacher(
    ray_session: None, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes / "train", tmp_path / "theirs")
    (tmp_path / "theirs" / "gem" / "00000.png").unlink()
    made = recipe(
        tmp_path / "run", sets=["theirs"], seeds=[0], epochs=1, foreign={"theirs": {"path": str(tmp_path / "theirs")}}
    )
    run = prepare(tmp_path, scenes, made)
    evaluate.run(made)
    lines = capsys.readouterr().out.splitlines()
    said = re.compile(
        r"evaluate: warning: evaluate\.foreign\.theirs: teacher convnet2-w8 gets (.*)% of its 119 images right, which "
        r"is near chance, of 10 classes\. Likely cause: its labels number the classes in another order .*"
    )
    (measured,) = filter(None, map(said.fullmatch, lines))
    classes = data.class_ids(run, "train")
    labels = {class_id: label for label, class_id in enumerate(classes)}
    theirs = foreign.load("theirs", made.evaluate.foreign["theirs"], labels, {}, 16)
    guide = teachers.load(made.teacher, run.path("teacher"), classes, 16)
    right = training.accuracy(guide, theirs.pictures, CPU)
    assert float(measured[1]) / 100 == pytest.approx(right, abs=1.1 / 119)
    assert sum(line.startswith("evaluate: warning: evaluate.foreign.theirs: its classes differ") for line in lines) == 1
    evaluate.run(made)
    assert "of its 119 images right" not in capsys.readouterr().out


def test_the_whole_of_other_classes_is_another_set(ray_session: None, scenes: Path, tmp_path: Path) -> None:
    others = ["ball", "dice"]
    made = recipe(tmp_path / "run", whole=True, protocols=["hard"])
    chance = made.distill.sets["chance"]
    asked = {"chance": chance, "others": chance.model_copy(update={"classes": tuple(others)})}
    made = made.model_copy(update={"distill": made.distill.model_copy(update={"sets": asked})})
    run = inputs.indexed(tmp_path / "run", scenes)
    inputs.distilled(run, scenes, "chance", 12, SUBSET, 1, made)
    inputs.distilled(run, scenes, "others", 12, others, 1, made)
    grid = cells.of(made)
    groups = evaluate._groups(made, grid, 1)
    assert sum(len(group.cells) for group in groups) == len(grid) == 8
    assert all(len({cell.set for cell in group.cells}) == 1 for group in groups)
    wholes = {cell.set.digest: cell.set.class_ids for cell in grid if cell.set.name == "whole"}
    assert sorted(wholes.values()) == sorted([tuple(SUBSET), tuple(others)])


def test_a_teachers_file_that_has_changed_in_place_is_another_teacher(evaluated: Recipe, tmp_path: Path) -> None:
    (folder := tmp_path / "teacher").mkdir()
    weights, about = folder / teachers.WEIGHTS_FILE, folder / teachers.DESCRIPTION_FILE
    for file in (weights, about):
        shutil.copy(Path(evaluated.run_dir, "teacher", file.name), file)
    order = folder / "order.txt"
    order.write_text("\n".join(json.loads(about.read_text())["class_ids"]))
    described = {"file": {"weights": str(weights)}}
    ordered = {"file": {"weights": str(weights), "class_order": str(order), "model": evaluated.teacher.model}}

    def keys(section: dict[str, Any]) -> set[str]:
        values = evaluated.model_dump() | {"teachers": section}
        return {cell.key for cell in cells.of(Recipe.model_validate(values))}

    def rewrite(file: Path, content: bytes) -> None:
        file.write_bytes(content)
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))

    before = [keys(section) for section in (described, ordered)]
    for file in (weights, about, order):
        rewrite(file, file.read_bytes())
    assert [keys(section) for section in (described, ordered)] == before, "the same, copied again"
    rewrite(order, order.read_bytes().replace(b"fish", b"fowl"))
    assert keys(described) == before[0]
    assert not keys(ordered) & before[1]
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    rewrite(weights, bytes(changed))
    assert not keys(described) & before[0]
    weights.unlink()
    with pytest.raises(UserError, match=rf"^teachers\.file\.weights: there is no file {weights}; "):
        keys(described)


def test_cells_that_differ_have_files_of_their_own(evaluated: Recipe) -> None:
    cfg = evaluated.evaluate
    changes: list[dict[str, Any]] = [
        {},
        {"students": (Student(arch="convnet2", width=5),)},
        {"students": (Student(arch="convnet2", width=4, lr=0.5),)},
        {"protocols": ("fkd",)},
        {"temperature": 3.0},
        {"size": 32},
        {"seeds": (7, 8)},
    ]
    files = [
        {cell.file for cell in cells.of(evaluated.model_copy(update={"evaluate": cfg.model_copy(update=change)}))}
        for change in changes
    ]
    assert len(set.union(*files)) == sum(map(len, files)) == 4 * len(changes)
