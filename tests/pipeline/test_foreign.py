"""Sets of other programs through the command line: as good as ours of the same images, taught, or refused at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from ddps_ray import cli, manifest, schemas
from ddps_ray.config import Recipe
from ddps_ray.pipeline import teacher
from ddps_ray.students import teachers
from tests.students import inputs

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IPC = 3
OURS, THEIRS = ["fish", "gem"], ["ball", "cookie", "sign"]

Made = tuple[Recipe, Path]


def recipe(folder: Path, **sections: Any) -> Made:
    """A recipe, as such and in a file."""
    values: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "data": {"root": "unused"},
        "model": {"path": "quickstart"},
        "distill": {"sets": {"ours": {"selector": "random", "ipc": [IPC], "composition": "single"}}},
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}},
    }
    values |= {name: values.get(name, {}) | section for name, section in sections.items()}
    values["evaluate"] = {"size": 16, "students": [{"arch": "convnet2", "width": 8}]} | values["evaluate"]
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return Recipe.model_validate(values), folder / "run.yaml"


def rows(made: Recipe) -> list[dict[str, Any]]:
    files = sorted(Path(made.run_dir, "evaluation").glob("*.parquet"))
    return [row for file in files for row in schemas.check(pq.read_table(file), schemas.EVALUATION).to_pylist()]


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "train").glob("*/*.png"))


def as_folders(ours: Path, target: Path) -> Path:
    shutil.copytree(ours / "train", target)
    return target


def as_parquet(ours: Path, target: Path) -> Path:
    """As Hugging Face stores them, shuffled."""
    files = files_of(ours)
    classes = sorted({file.parent.name for file in files})
    mixed = [files[int(number)] for number in np.random.default_rng(0).permutation(len(files))]
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in mixed]
    target.mkdir()
    labels = [classes.index(file.parent.name) for file in mixed]
    pq.write_table(pa.table({"image": images, "label": labels}), target / "train-00000-of-00001.parquet")
    return target


def as_tensors(ours: Path, target: Path) -> Path:
    """Normalised, and the classes in turn, as one writes them out of a loader."""
    files = sorted(files_of(ours), key=lambda file: file.name)
    classes = sorted({file.parent.name for file in files})
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    labels = torch.tensor([classes.index(file.parent.name) for file in files])
    torch.save({"images": (pixels / 255 - mean) / std, "labels": labels}, target.with_suffix(".pt"))
    return target.with_suffix(".pt")


FORMATS: dict[str, tuple[Callable[[Path, Path], Path], dict[str, Any]]] = {
    "folders": (as_folders, {}),
    "parquet": (as_parquet, {}),
    "tensors": (as_tensors, {"mean": MEAN, "std": STD}),
}


@pytest.mark.usefixtures("ray_session")
def test_the_same_images_give_the_same_accuracy_in_each_format(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    classes = sorted(path.name for path in (scenes / "train").iterdir())
    paths = {name: str(tmp_path / name) + (".pt" if name == "tensors" else "") for name in FORMATS}
    foreign = {name: {"path": paths[name]} | settings for name, (_, settings) in FORMATS.items()}
    student = {"arch": "convnet2", "width": 8, "lr": 0.01}
    evaluation = {"protocols": ["hard"], "epochs": 20, "batch": 10, "seeds": [0, 1], "students": [student]}
    made, file = recipe(tmp_path, evaluate=evaluation | {"foreign": foreign})
    ours = Path(inputs.distilled(run, scenes, "ours", IPC, classes, 1, made))
    for name, (write, _) in FORMATS.items():
        assert str(write(ours, tmp_path / name)) == paths[name]
    assert cli.main(["evaluate", "--config", str(file)]) == 0
    found: dict[str, dict[int, float]] = {}
    for row in rows(made):
        assert (row["ipc"], row["images"]) == (IPC, 10 * IPC)
        found.setdefault(row["set_name"], {})[row["seed"]] = row["accuracy_last"]
    assert found == dict.fromkeys(["ours", *FORMATS], found["ours"])
    assert len(found["ours"]) == 2
    assert min(found["ours"].values()) > 0.2, "ten classes: something was learnt, as in no other order of the images"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_teacher_of_a_sets_own_classes_is_trained_for_our_subsets_and_for_foreign_ones(
    scenes: Path, tmp_path: Path
) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    made, file = recipe(
        tmp_path,
        distill={"sets": {"ours": {"selector": "random", "ipc": [IPC], "classes": OURS, "composition": "single"}}},
        teacher={"scope": "set", "epochs": 8, "batch": 12},
        evaluate={"epochs": 1, "seeds": [0], "foreign": {"theirs": {"path": str(tmp_path / "theirs")}}},
    )
    inputs.distilled(run, scenes, "ours", IPC, OURS, 1, made)
    for class_id in THEIRS:
        shutil.copytree(scenes / "train" / class_id, tmp_path / "theirs" / class_id)
    assert cli.main(["teacher", "--config", str(file)]) == 0
    for class_ids in (OURS, THEIRS):
        assert teachers.describe(teacher.location(made, "", class_ids)[1])["class_ids"] == class_ids
    assert cli.main(["evaluate", "--config", str(file)]) == 0
    assert {row["set_name"]: row["class_digest"] for row in rows(made)} == {
        "ours": manifest.class_digest(OURS),
        "theirs": manifest.class_digest(THEIRS),
    }
    assert all(json.loads(row["settings"])["teacher"]["scope"] == "set" for row in rows(made))


class Pickled:
    """An object that only unpickling brings back."""


def images(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


BAD: dict[str, tuple[Any, str]] = {
    "label over": ((images(2, 3, 8, 8), torch.tensor([0, 10])), "label 10 is out of range: the data set's are 10"),
    "label under": ((images(2, 3, 8, 8), torch.tensor([0, -1])), "label -1 is out of range"),
    "channels last": ((images(2, 8, 8, 3), torch.tensor([0, 1])), "images are 2×8×8×3, not N×3×S×S"),
    "pickled": (
        {"images": images(2, 3, 8, 8), "labels": torch.tensor([0, 1]), "args": Pickled()},
        "has pickled objects",
    ),
    "not tested": (
        (images(2, 3, 8, 8), torch.tensor([0, 9])),
        "split 'val' has no image of 1 of its 2 classes, 'strawberry' is one",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_set_is_one_line_before_any_training(
    kind: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, said = BAD[kind]
    run = inputs.indexed(tmp_path / "run", scenes)
    listed = manifest.dataset(run).to_table(filter=(ds.field("split") == "val") & (ds.field("label") != 9))
    manifest.write(run, "val", listed)
    torch.save(held, tmp_path / "a.pt")
    evaluation = {"protocols": ["hard"], "sets": ["theirs"], "foreign": {"theirs": {"path": str(tmp_path / "a.pt")}}}
    _, file = recipe(tmp_path, evaluate=evaluation)
    assert cli.main(["evaluate", "--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ddps: evaluate.foreign.theirs: ")
    assert said in line
    assert not list((tmp_path / "run" / "evaluation").glob("*.parquet"))
