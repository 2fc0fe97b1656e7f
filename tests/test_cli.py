"""What a person at the command line gets: help, an exit code, and one line for a mistake of theirs."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.train import WorkerGroupError

from ddps_ray import cli
from ddps_ray.errors import UserError
from ddps_ray.remedies import user_error

RECIPE = "run_dir: {run}\ndata: {{root: {root}}}\nmodel: {{path: quickstart}}\n"


@pytest.fixture
def recipe_file(tmp_path: Path, scenes: Path) -> str:
    file = tmp_path / "run.yaml"
    file.write_text(RECIPE.format(run=tmp_path / "run", root=scenes))
    return str(file)


def ddps(*words: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-m", "ddps_ray.cli", *words], cwd=root, capture_output=True, text=True)


def test_help_lists_the_stages_in_their_order_and_an_example() -> None:
    told = ddps("--help")
    assert told.returncode == 0
    stages = ["quickstart", "run", "index", "score", "distill", "teacher", "evaluate", "report"]
    places = [told.stdout.index(f"\n    {stage}") for stage in stages]
    assert places == sorted(places)
    assert "ddps run --config run.yaml" in told.stdout


def own_lines(stderr: str) -> list[str]:
    """What this process said: Ray passes on its workers' lines, even of an earlier test, as `(Actor pid=7) …`."""
    return [line for line in stderr.splitlines() if not re.match(r"(\x1b\[\d+m)?\(", line)]


def test_a_misspelt_key_is_one_line_on_stderr_and_exit_code_2(recipe_file: str) -> None:
    told = ddps("score", "--config", recipe_file, "--set", "score.pears=5")
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr == "ddps: --set score.pears: no such key; did you mean score.pairs?\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_takes_a_recipe(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.yaml"
    needed = [word for flag, said in cli.COMMANDS[command].options if said.get("required") for word in (flag, "x")]
    assert cli.main([command, "--config", str(absent), *needed]) == 2
    assert own_lines(capsys.readouterr().err) == [f"ddps: {absent}: No such file or directory"]


def test_an_unknown_command_or_no_recipe_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in [(["scroe"], "invalid choice: 'scroe'"), (["score"], "--config")]:
        with pytest.raises(SystemExit) as exited:
            cli.main(words)
        assert exited.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.usefixtures("ray_session")
def test_a_mistake_found_by_a_worker_is_one_line_too(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["index", "--config", recipe_file, "--set", "data.val=test"]) == 2
    errors = own_lines(capsys.readouterr().err)
    assert len(errors) == 1
    assert errors[0].endswith("has no folder 'test'; it has train, val: set data.val=val")
    assert cli.main(["index", "--config", recipe_file]) == 0


def fail(*_: object) -> None:
    try:
        raise ZeroDivisionError("first")
    except ZeroDivisionError as error:
        raise UserError("data.root: nowhere") from error


def from_a_task() -> None:
    ray.get(ray.remote(fail).remote())


def from_ray_data() -> None:
    ray.data.range(1).map_batches(fail).materialize()


def from_an_actor_that_cannot_start() -> None:
    actor = ray.remote(type("Actor", (), {"__init__": fail, "ready": fail})).remote()
    ray.get(actor.ready.remote())


def from_ray_train() -> None:
    try:
        from_a_task()
    except UserError as error:
        raise WorkerGroupError(f"[Rank 0 Error Snippet]:\n{error}\n", {0: error}) from None


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("way", [fail, from_a_task, from_ray_data, from_an_actor_that_cannot_start, from_ray_train])
def test_a_mistake_is_found_in_whatever_ray_wraps_it(way: Callable[[], None]) -> None:
    with pytest.raises(Exception, match=r"data\.root: nowhere") as caught:
        way()
    assert user_error(caught.value) == "data.root: nowhere"


@pytest.mark.usefixtures("ray_session")
def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(TypeError) as caught:
        ray.get(ray.remote(len).remote(5))
    assert user_error(caught.value) is None
    assert user_error(ValueError("a UserError: no")) is None


def test_an_interruption_is_130_and_a_bug_is_raised(
    recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in ("KeyboardInterrupt", "ZeroDivisionError"):
        (tmp_path / f"stage_{error}.py").write_text(f"def run(recipe):\n    raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "index", cli.Command("stage_KeyboardInterrupt", ""))
    assert cli.main(["index", "--config", recipe_file]) == 130
    assert own_lines(capsys.readouterr().err) == ["ddps: interrupted; the same command goes on from here"]
    monkeypatch.setitem(cli.COMMANDS, "index", cli.Command("stage_ZeroDivisionError", ""))
    with pytest.raises(ZeroDivisionError):
        cli.main(["index", "--config", recipe_file])


def test_sigterm_is_130_and_one_line_before_ray_has_begun_too(tmp_path: Path) -> None:
    os.mkfifo(recipe := tmp_path / "recipe.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "ddps_ray.cli", "index", "--config", str(recipe)], stderr=subprocess.PIPE, text=True
    )
    with recipe.open("w"):  # which waits until the command reads it; the command then waits for the text
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "ddps: interrupted; the same command goes on from here\n")


def test_a_ray_that_it_starts_listens_on_loopback_only() -> None:
    code = "from ddps_ray import cli; cli.stay_on_loopback(None); import ray; "
    code += (
        "ray.init(num_cpus=1, include_dashboard=False, logging_level='error'); print(ray.util.get_node_ip_address())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == "127.0.0.1"
