"""The recipe: read whole or refused with the key's name, and what the command line says wins."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ddps_ray import config
from ddps_ray.errors import UserError

RECIPE = """
run_dir: runs/one
data: {root: photos}
model: {path: quickstart}
score: {pairs: 7, timesteps: [200, 300]}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(RECIPE)
    return file


def test_the_file_is_read_and_the_rest_are_defaults(recipe_file: Path) -> None:
    recipe = config.load(recipe_file)
    here = Path.cwd()  # relative places are made absolute: workers run in other folders
    assert (recipe.run_dir, recipe.data.root) == (str(here / "runs" / "one"), str(here / "photos"))
    assert recipe.score.pairs == 7
    assert recipe.score.timesteps == (200, 300)
    assert (recipe.data.train, recipe.score.patch, recipe.distill.clusters) == ("train", 224, 32)


def test_an_override_wins_and_may_be_a_list_or_open_a_section(recipe_file: Path) -> None:
    recipe = config.load(
        recipe_file,
        ["score.pairs=3", "score.timesteps=[5, 9]", "evaluate.seeds=[4]", "data.val=null", "run_dir=s3://bucket/a=b"],
    )
    assert (recipe.score.pairs, recipe.score.timesteps, recipe.evaluate.seeds) == (3, (5, 9), (4,))
    assert recipe.data.val is None
    assert recipe.run_dir == "s3://bucket/a=b"
    assert config.load(recipe_file).score.pairs == 7, "an override must not leak into the next load"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("score.pears=3", "--set score.pears: no such key; did you mean score.pairs?"),
        ("scores.pairs=3", "--set scores.pairs: scores: no such key; did you mean score?"),
        ("pairs=3", "--set pairs: no such key; did you mean score.pairs?"),
        ("epochs=3", "--set epochs: no such key; did you mean teacher.epochs or evaluate.epochs?"),
        ("distill.sets={a: {ipcs: [1]}}", "distill.sets.a.ipcs: no such key; did you mean distill.sets.a.ipc?"),
        ("score.pairs=0", "--set score.pairs: must be greater than 0 (got 0)"),
        ("score.pairs=many", "--set score.pairs: must be a whole number (got many)"),
        ("score.pairs=2.5", "--set score.pairs: must be a whole number (got 2.5)"),
        ("score.pairs=yes", "--set score.pairs: must be a number, not true or false"),
        ("evaluate.seeds=[1, yes]", "evaluate.seeds.1: must be a number, not true or false"),
        ("evaluate.temperature=.inf", "evaluate.temperature: must be a finite number (got .inf)"),
        ("score.store_map=maybe", "score.store_map: must be true or false (got maybe)"),
        ("evaluate.gpus=2", "evaluate.gpus: 2 is no share of one GPU, from 0.01 to 1; several GPUs are `workers`"),
        ("teacher.gpus=0", "teacher.gpus: 0 is no share of one GPU, from 0.01 to 1"),
        ("teachers={a: {gpus: 1.5}}", "teachers.a.gpus: 1.5 is no share of one GPU"),
        ("evaluate={gpus: 0.5, workers: 2}", "evaluate: gpus (0.5) below 1 is for a training of one worker, not of 2"),
        ("teacher={gpus: 0.5, workers: 2}", "teacher: gpus (0.5) below 1 is for a training of one worker, not of 2"),
        ("score.timesteps=10", "score.timesteps: must be a list, such as [10] (got 10)"),
        ("score.timesteps=[700, 100]", "score: timesteps must be two numbers"),
        ("evaluate.crop_scale=[1, 0.25]", "evaluate.crop_scale: must be two shares with 0 < least <= most"),
        ("teacher.crop_scale=[1, 0.25]", "teacher.crop_scale: must be two shares with 0 < least <= most"),
        ("teacher.crop_scale=[0, 0]", "teacher.crop_scale: must be two shares with 0 < least <= most"),
        ("evaluate.ema=1.0", "evaluate.ema: must be less than 1 (got 1.0)"),
        ("score.timesteps=[1, 2, 3]", "score.timesteps: must have at most 2, not 3"),
        ("score.timesteps=[1]", "score.timesteps.1: is absent: the list has too few values"),
        ("score.prompt=a picture", "score: prompt must contain {}"),
        ("score.prompt=a picture: {}", "score.prompt: must be text: put a value with a colon and a blank in quotes"),
        ("score.prompt={}", "score.prompt: must be text, and YAML reads { } as a section: put it in quotes"),
        ("data.train=[a]", "data.train: must be text, and YAML reads [ ] as a list: put it in quotes"),
        ("report.title=", "--set report.title: is empty: write '' for empty text"),
        ("score.pairs=", "--set score.pairs: must be a whole number (got nothing)"),
        ("evaluate.seeds=", "--set evaluate.seeds: must be a list (got nothing)"),
        ("evaluate.seeds=[0, 3000000000]", "evaluate.seeds.1: must be less than 2147483648 (got 3000000000)"),
        ("seed=-1", "--set seed: must be greater than or equal to 0 (got -1)"),
        ("distill.sets={a: {seed: 2147483648}}", "distill.sets.a.seed: must be less than 2147483648"),
        ("run_dir=''", "--set run_dir: an empty path is none: name a folder or a URI"),
        ("run_dir=~nosuch/x", "--set run_dir: ~nosuch/x: there is no home folder ~nosuch"),
        ("data.root=~nosuch", "--set data.root: ~nosuch: there is no home folder ~nosuch"),
        ("model.path=~nosuch/x", "--set model.path: ~nosuch/x: there is no home folder ~nosuch"),
        ("model.path=''", "--set model.path: an empty path is none"),
        ("report.boxes=~nosuch/x", "--set report.boxes: ~nosuch/x: there is no home folder ~nosuch"),
        ("score.patch=300", "score: patch (300) must not be larger than size (256)"),
        ("score.patch=big", "score.patch: must be a whole number or 'full' (got big)"),
        ("score.actors=[0, 3]", "score.actors.0: must be greater than 0 (got 0)"),
        ("score.actors=few", "score.actors: must be a whole number or a list"),
        ("data.val=train", "data: val must be another split than train ('train'), or null"),
        ("data.val=no", "must be text, and YAML reads no as true or false: write it in quotes, 'no'"),
        ("data.layout=imagenets", "; did you mean 'imagenet'? (got imagenets)"),
        ("data.root=s3:/b/x", "data.root: s3:/b/x: write s3://"),
        ("distill.size=111", "distill: size must be even"),
        ("distill.sets={a/b: {}}", "distill: name 'a/b'"),
        ("distill.sets={a: {selector: rdet}}", "distill.sets.a.selector: must be "),
        ("distill.sets={a: {classes: []}}", "distill.sets.a.classes: must have at least 1"),
        ("distill.sets={a: {classes: [00013]}}", "distill.sets.a.classes.0: YAML reads 00013 as the number 11"),
        ("distill.sets={a: {classes: [13]}}", "distill.sets.a.classes.0: must be text, and YAML reads 13 as a number"),
        ("distill.sets={a: {ipc: []}}", "distill.sets.a.ipc: "),
        ("distill.sets={a: {ipc: 10}}", "distill.sets.a.ipc: must be a list, such as [10] (got 10)"),
        ("evaluate.students=[resnet18]", "evaluate.students.0: must be a section of keys (got resnet18)"),
        ("evaluate.seeds=[]", "evaluate.seeds: "),
        (
            "evaluate.sets=[rnd]",
            "recipe: evaluate.sets names 'rnd', which is neither in distill.sets nor in evaluate.foreign",
        ),
        ("model=quickstart", "--set model: must be a section of keys (got quickstart)"),
        ("model={}", "--set model: model.path: is required"),
        ("score.pairs", "--set score.pairs: write section.key=value"),
        ("run_dir.x=1", "--set run_dir.x: run_dir is not a section"),
        ("score.pairs=[1", "--set score.pairs: the value is not YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(recipe_file: Path, override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(recipe_file, [override])
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert line.startswith(f"--set {override.partition('=')[0]}: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("report: {titel: x}", "line 6: report.titel: no such key; did you mean report.title?"),
        ("evaluate: {size: big}", "line 6: evaluate.size: must be a whole number (got big)"),
        ("distill: {sets: {a: {classes: [n1, 7]}}}", "line 6: distill.sets.a.classes.1: must be text"),
        ("report: {title: }", "line 6: report.title: is empty: write '' for empty text"),
        ("teacher: {model: {}}", "line 6: teacher.model.arch: is required"),
        (
            "teacher: {model: {arch: resnet18, lr: 0.1}}",
            "line 6: teacher.model.lr: no such key; did you mean teacher.lr?",
        ),
        (
            "teacher: {class_order: imagenet-1k}",
            "line 6: teacher: class_order is for a file of weights; published and trained ones know theirs",
        ),
        (
            "teachers: {a: {weights: trained, mean: [0, 0, 0]}}",
            "line 6: teachers.a: mean is for a file of weights; published and trained ones know theirs",
        ),
        ("teacher: {scope: set}", "line 6: teacher: scope `set` is for a teacher that is trained; others know"),
        ("teacher: {accuracy: 69.8}", "line 6: teacher.accuracy: must be less than or equal to 1 (got 69.8)"),
    ],
)
def test_a_mistake_in_the_file_has_its_line(recipe_file: Path, line: str, said: str) -> None:
    recipe_file.write_text(RECIPE + line)
    with pytest.raises(UserError) as caught:
        config.load(recipe_file, ["score.pairs=3"])
    assert str(caught.value).startswith(f"{recipe_file}, {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"", "a recipe is a mapping"),
        (b"a: [\n", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        config.load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: No such file"):
        config.load(tmp_path / "absent.yaml")


def test_a_recipe_cannot_be_changed(recipe_file: Path) -> None:
    recipe = config.load(recipe_file)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.score.__setattr__("pairs", 9)
    assert recipe.score.pairs == 7


def test_a_secret_in_a_uri_is_refused_and_not_repeated(recipe_file: Path) -> None:
    for key in ("data.root", "run_dir", "model.path"):
        for secret in ("hush", "hu/sh", "hush+1"):
            with pytest.raises(UserError, match="no secret belongs in it") as caught:
                config.load(recipe_file, [f"{key}=s3://KEY:{secret}@bucket/images"])
            assert secret not in str(caught.value)
    plain = "s3://bucket/user@home:1/images?endpoint_override=127.0.0.1:9000&scheme=http"
    assert config.load(recipe_file, [f"data.root={plain}"]).data.root == plain


def test_a_relative_place_in_a_submitted_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "run.yaml").write_text(RECIPE)
    with pytest.raises(
        UserError, match=r"run\.yaml, line 2: run_dir: runs/one: a relative path in a submitted job is in"
    ):
        config.load("run.yaml")
    with pytest.raises(UserError, match=r"data\.root: photos: a relative path in a submitted job"):
        config.load("run.yaml", ["run_dir=s3://bucket/run"])
    there = ["run_dir=s3://bucket/run", "data.root=/photos", "data.classes=names.csv"]
    assert config.load("run.yaml", there).data.classes == str(folder / "names.csv"), "what the job brings along may be"
