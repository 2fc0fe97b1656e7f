"""Mistakes of later stages are found when the index is there: none of these runs loads a model's weights."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch

from ddps_ray import checks, config, manifest
from ddps_ray.config import Network, Recipe
from ddps_ray.errors import UserError
from ddps_ray.sources import imagefolder
from ddps_ray.storage import Run
from ddps_ray.students import networks

Make = Callable[..., Recipe]


@pytest.fixture
def make(tmp_path: Path, scenes: Path) -> Make:
    """Builds a recipe whose data set, ten classes of twelve images, is indexed."""
    run = Run(str(tmp_path / "run"))
    listing = imagefolder.list_images(str(scenes), ["train", "val"])
    run.claim("index", {})
    files = [name for split, rows in listing.splits.items() for name in manifest.write(run, split, rows)]
    run.finish("index", {"files": files, "splits": {}})

    def make(**sections: Any) -> Recipe:
        values: dict[str, Any] = {
            "run_dir": run.uri,
            "data": {"root": str(scenes)},
            "model": {"path": "quickstart"},
            "score": {"size": 64, "patch": 32},
            "distill": {"sets": {"ddps": {"ipc": [3]}}},
            "teacher": {"weights": "trained", "model": {"arch": "convnet3"}},
            "evaluate": {"size": 64, "students": [{"arch": "convnet3"}]},
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return config.parse(values, "test")

    return make


def test_a_recipe_without_mistakes_passes(make: Make) -> None:
    assert checks.check(make()) == []


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"evaluate": {"students": [{"arch": "resnet999"}]}}, "there is no network 'resnet999'"),
        ({"evaluate": {"students": [{"arch": "convnet7"}]}}, "convnet7 halves its input 7 times"),
        ({"evaluate": {"students": [{"arch": "convnet3"}] * 2}}, "evaluate.students: convnet3 is there twice"),
        ({"evaluate": {"ipc": [4]}}, "evaluate.ipc: nothing to do: no set has an IPC of [4]"),
        ({"teacher": {"model": {"arch": "resnet9000"}}}, "there is no network 'resnet9000'"),
        ({"teacher": {"weights": "timm", "model": {"arch": "resnet18"}}}, "do not know class"),
        (
            {
                "teachers": {
                    "a": {"weights": "trained", "model": {"arch": "convnet3"}},
                    "b": {"weights": "/no/such.pth"},
                }
            },
            "teachers.b.weights: there is no file /no/such.pth",
        ),
        ({"teacher": {"scope": "set", "model": {"arch": "resnet9000"}}}, "there is no network 'resnet9000'"),
        ({"distill": {"sets": {"a": {"ipc": [1, 13]}}}}, "distill.sets.a.ipc: class 'ball': 13 images of each class"),
        ({"distill": {"sets": {"a": {"ipc": [4]}}}}, "4 mosaics of four patches need 16 images of each class"),
        ({"distill": {"sets": {"a": {"classes": ["fisch"]}}}}, "distill.sets.a.classes: there is no class 'fisch'"),
        ({"model": {"path": "pretrained"}, "score": {"size": 62}}, "score.size: 62 is not a multiple of 4"),
        ({"model": {"path": "pretrained"}, "score": {"dift_block": 3}}, "the U-Net's 3 up-blocks count from 0"),
        ({"score": {"patch": 30}}, "score.patch: 30 is not a multiple of 4"),
        ({"report": {"boxes": "absent.csv"}}, "absent.csv: cannot be read"),
    ],
)
def test_a_mistake_of_a_later_stage_is_found(make: Make, sections: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check(make(**sections))
    assert said in str(caught.value)


def write_foreign(folder: Path, scenes: Path, names: Mapping[str, str]) -> str:
    """A set of two images a class, of other programs; folders are called by `names`."""
    for class_id, name in names.items():
        (folder / name).mkdir(parents=True)
        for number in range(2):
            shutil.copy(scenes / "train" / class_id / f"{number:05d}.png", folder / name / f"{number}.png")
    return str(folder)


ALONE: dict[str, Any] = {"size": 64, "students": [{"arch": "convnet3"}], "sets": ["theirs"]}


def test_foreign_sets_alone_are_checked_with_their_teacher(make: Make, tmp_path: Path, scenes: Path) -> None:
    names = {class_id: class_id for class_id in sorted(folder.name for folder in (scenes / "train").iterdir())}
    path = write_foreign(tmp_path / "theirs", scenes, names)
    (tmp_path / "order.txt").write_text("\n".join(names))
    about = {"weights": str(tmp_path / "weights.pth"), "class_order": str(tmp_path / "order.txt")}
    network = Network(arch="convnet3", width=8)
    torch.save(networks.build(network, 10, 64).state_dict(), about["weights"])
    recipe = make(evaluate=ALONE | {"foreign": {"theirs": {"path": path}}}, teacher=about | {"model": dict(network)})
    assert checks.check(recipe) == []
    torch.save({}, about["weights"])
    with pytest.raises(UserError, match=r"^teacher\.weights: "):
        checks.check(recipe)


def test_a_foreign_set_is_checked_before_the_scoring(make: Make, tmp_path: Path, scenes: Path) -> None:
    def refused(path: str, **evaluation: Any) -> str:
        with pytest.raises(UserError) as caught:
            checks.check(make(evaluate=ALONE | {"foreign": {"theirs": {"path": path}}} | evaluation))
        return str(caught.value)

    assert refused("/nowhere") == "evaluate.foreign.theirs: /nowhere does not exist"
    unknown = write_foreign(tmp_path / "unknown", scenes, {"fish": "whale", "gem": "gem"})
    assert refused(unknown).startswith("evaluate.foreign.theirs: 'whale': the data set has no such class")
    two = write_foreign(tmp_path / "two", scenes, {"fish": "fish", "gem": "gem"})
    assert refused(two, ipc=[1]) == "evaluate.ipc: nothing to do: no set has an IPC of [1]"
    assert "given is for sets with soft labels of their own" in refused(two, protocols=["given"])
    recipe = make(evaluate=ALONE | {"foreign": {"theirs": {"path": two}}})
    assert checks.check(recipe) == []
    run = Run(recipe.run_dir)
    rows = manifest.dataset(run).to_table().filter(pc.field("class_id") != "gem")
    files = manifest.write(run, "train", manifest.dataset(run).to_table().filter(pc.field("split") == "train"))
    files += manifest.write(run, "val", rows.filter(pc.field("split") == "val"))
    run.finish("index", {"files": files, "splits": {}})
    assert refused(two) == "evaluate.foreign.theirs: split 'val' has no image of 1 of its 2 classes, 'gem' is one"


def test_what_can_be_wrong_with_a_foreign_set_is_said_before_the_scoring(
    make: Make, tmp_path: Path, scenes: Path
) -> None:
    path = write_foreign(tmp_path / "theirs", scenes, {"fish": "0", "gem": "1"})
    (doubt,) = checks.check(make(evaluate=ALONE | {"foreign": {"theirs": {"path": path}}}))
    assert doubt.startswith("evaluate.foreign.theirs: its class folders are numbers, of 2 of the data set's 10 classes")


def test_hard_labels_need_no_teacher(make: Make) -> None:
    published = {"weights": "published", "model": {"arch": "resnet18"}}
    assert checks.check(make(teacher=published, evaluate={"protocols": ["hard"]})) == []


def test_a_file_of_weights_is_tried_before_the_scoring(make: Make, tmp_path: Path, scenes: Path) -> None:
    order = sorted(folder.name for folder in (scenes / "train").iterdir())
    (tmp_path / "order.txt").write_text("\n".join(order))
    weights = str(tmp_path / "weights.pth")
    about = {"weights": weights, "class_order": str(tmp_path / "order.txt"), "model": {"arch": "convnet3", "width": 8}}
    network = networks.build(Network(arch="convnet3", width=8), 10, 64)
    torch.save(network.state_dict(), weights)
    recipe = make(teacher={}, teachers={"mine": about})
    assert checks.check(recipe) == []
    torch.save({"head.weight": network.state_dict()["head.weight"]}, weights)
    with pytest.raises(UserError, match=rf"^teachers\.mine\.weights: {weights}: has no 'features\.0\.weight'"):
        checks.check(recipe)
    assert checks.check(recipe, fetch=False) == []


def test_weights_that_cannot_be_fetched_are_found(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    wnids = ["n01443537", "n02056570"]
    recipe = make(teacher={"weights": "timm", "model": {"arch": "resnet18"}}, distill={"sets": {"a": {"ipc": [1]}}})
    run = Run(recipe.run_dir)
    data = tmp_path / "wnids"
    for split in ("train", "val"):
        for wnid in wnids:
            (data / split / wnid).mkdir(parents=True)
            for number in range(4):
                (data / split / wnid / f"{number}.png").touch()
    listing = imagefolder.list_images(str(data), ["train", "val"])
    files = [name for split, rows in listing.splits.items() for name in manifest.write(run, split, rows)]
    run.finish("index", {"files": files, "splits": {}})
    assert checks.check(recipe, fetch=False) == []
    with pytest.raises(UserError, match=r"teacher\.model\.arch: cannot fetch the weights of resnet18\.tv_in1k"):
        checks.check(recipe)


def test_a_split_without_some_classes_is_said(make: Make) -> None:
    recipe = make(data={"val": "other"})
    run = Run(recipe.run_dir)
    rows = manifest.dataset(run).to_table().filter(pc.field("split") == "val")
    names = manifest.write(run, "other", rows.slice(0, 6).set_column(5, rows.schema.field(5), [["other"] * 6]))
    run.finish("index", {"files": [*run.require("index", "index")["files"], *names], "splits": {}})
    (line,) = checks.check(recipe)
    assert line == (
        "distill.sets.ddps: split 'other' has no image of 9 of the 10 classes, 'butterfly' is one: students are tested "
        "on the others only"
    )
    only = make(data={"val": "other"}, distill={"sets": {"a": {"ipc": [1], "classes": ["fish", "gem"]}}})
    with pytest.raises(UserError, match="has no image of 2 of the 2 classes, so that no student can be tested"):
        checks.check(only)


def test_a_set_of_another_program_is_checked_as_soon_as_there_is_an_index(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    foreign = {"size": 64, "students": [{"arch": "convnet3"}], "foreign": {"theirs": {"path": str(file)}}}
    recipe = make(evaluate=foreign, teacher={"weights": "trained", "model": {"arch": "convnet3"}, "scope": "set"})
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    torch.save((images, torch.tensor([0, 10])), file)
    with pytest.raises(UserError, match=r"^evaluate\.foreign\.theirs: label 10 is out of range"):
        checks.check(recipe)
    torch.save((images, torch.tensor([0, 9])), file)
    (doubt,) = checks.check(recipe)
    assert doubt.startswith("evaluate.foreign.theirs: its labels are numbers, of 2 of the data set's 10 classes")
    run = Run(recipe.run_dir)
    kept = manifest.dataset(run).to_table().filter((pc.field("split") == "val") & (pc.field("class_id") != "ball"))
    manifest.write(run, "val", kept)
    with pytest.raises(UserError, match=r"^evaluate\.foreign\.theirs: split 'val' has no image of 1 of its 2 classes"):
        checks.check(recipe)


def test_without_a_validation_split_it_is_said_what_is_left_out(make: Make) -> None:
    (line,) = checks.check(make(data={"val": None}, evaluate={"students": [{"arch": "resnet999"}]}))
    assert line.startswith("data.val is null: no teacher is trained and no student tested")
