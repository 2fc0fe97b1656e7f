"""A recipe's text: what YAML would drop, or read as something else than is written, is an error with its line."""

import pytest

from ddps_ray import yaml_values
from ddps_ray.errors import UserError


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("score: {size: 64}\ndata: {root: x}\nscore: {pairs: 3}\n", 3, "score: is written twice, first in line 1"),
        ("data:\n  root: x\n  val: y\n  root: z\n", 4, "data.root: is written twice, first in line 2"),
        ("d: {sets: {a: {ipc: [1],\n ipc: [2]}}}\n", 2, "d.sets.a.ipc: is written twice, first in line 1"),
        ("l:\n- {arch: x}\n- {arch: y,\n   arch: z}\n", 4, "l.1.arch: is written twice, first in line 3"),
        ("c: [a,\n 00013]\n", 2, "c.1: YAML reads 00013 as the number 11: write 11, or, if it is text, in quotes"),
        ("c: 0x1F\n", 1, "c: YAML reads 0x1F as the number 31"),
        ("c: 0b11\n", 1, "c: YAML reads 0b11 as the number 3"),
        ("c: 1_000\n", 1, "c: YAML reads 1_000 as the number 1000"),
        ("c: 12:30:45\n", 1, "c: YAML reads 12:30:45 as the number 45045"),
        ("c: 1:30.5\n", 1, "c: YAML reads 1:30.5 as the number 90.5"),
        ("c: 2024-01-31\n", 1, "c: YAML reads 2024-01-31 as a date: write it in quotes, '2024-01-31'"),
        ("c: {on: 1}\n", 1, "c.on: a key is text: write 'on', in quotes"),
        ("c:\n  7: x\n", 2, "c.7: a key is text: write '7', in quotes"),
        ("c: !!set {a, b}\n", 1, "c: YAML's tag:yaml.org,2002:set is not read"),
        ("c: &c [*c]\n", 1, "c.0: holds itself"),
        ("a: b: c\n", 1, "a value with a colon and a blank needs quotes"),
        ("a:\n\tb: c\n", 2, "use blanks, not tabs"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        (
            "r:\n  title: Run #3\n",
            2,
            "YAML cuts the value before #3: put the value in quotes, or a blank after #",
        ),
        ("d: {root: /data/set #2\n  }\n", 1, "d.root: YAML cuts the value before #2"),
        ("d: {root: /data/set #2}\n", 2, "a bracket is not closed, or a # after a blank"),
        ("d:\n  root: #images\n", 2, "d.root: YAML cuts the value before #images"),
        ("l:\n- a\n- b\n  c  #d e\n", 3, "l.1: YAML cuts the value before #d"),
        ("p: {} in a photo\n", 1, "a value that begins with {, [ or a quote needs quotes around all"),
        ("a:\n    b: 1\n  c: 2\n", 3, "keys of the same section begin in the same column"),
    ],
)
def test_a_file_is_refused_with_the_line(text: str, line: int, said: str) -> None:
    with pytest.raises(UserError) as caught:
        yaml_values.read(text, "run.yaml")
    assert str(caught.value).startswith(f"run.yaml, line {line}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_usual_values_are_read_as_they_are() -> None:
    text = "a: [1, -2, 0, 1.5, 1.0e-3, 1e-3, true, no, ~, 007x, '00013', '2024-01-31', n01440764, 1:x]\n"
    read = yaml_values.read(text + "b: {<<: {c: 1}, c: 2}\n", "run.yaml").plain
    numbers = [1, -2, 0, 1.5, 0.001, "1e-3", True, False, None]
    assert read == {"a": [*numbers, "007x", "00013", "2024-01-31", "n01440764", "1:x"], "b": {"c": 2}}


def test_a_comment_is_none_of_a_value() -> None:
    text = "# of all\na: x # like this\nb: y ## and this\nc: [1, 2] #this\nd: #and\n  e: 'z' #this\n  #f: 3\n  g: a#b\n"
    assert yaml_values.read(text, "run.yaml").plain == {"a": "x", "b": "y", "c": [1, 2], "d": {"e": "z", "g": "a#b"}}


def test_an_override_without_a_value_is_nothing_and_is_where_it_was_written() -> None:
    values = yaml_values.read("report:\n  title: x\n", "run.yaml")
    yaml_values.override(values, "report.title=")
    assert values.plain == {"report": {"title": None}}
    assert values.origin(("report", "title")).place == "--set report.title"


@pytest.mark.parametrize(
    "cut", ["data.root=s3://b/my #images", "data.root=#images", "a=[1] # two", "a='x' y", "a=---", "a=..."]
)
def test_a_value_of_the_command_line_is_taken_whole_or_refused(cut: str) -> None:
    values = yaml_values.Values({"data": {"root": "before"}}, "run.yaml")
    with pytest.raises(UserError, match="in quotes"):
        yaml_values.override(values, cut)
    assert values.plain["data"]["root"] == "before"


def test_quotes_keep_a_value_whole() -> None:
    values = yaml_values.Values({}, "run.yaml")
    yaml_values.override(values, "data.root='s3://b/my #images'")
    yaml_values.override(values, "data.val=a#b")
    assert values.plain == {"data": {"root": "s3://b/my #images", "val": "a#b"}}


def test_where_a_value_was_written_is_known() -> None:
    values = yaml_values.read("score:\n  size: 64\n  steps: [1,\n    2]\ndata: {root: x}\n", "run.yaml")
    yaml_values.override(values, "score.pairs=3")
    assert values.origin(("data", "root")).place == "run.yaml, line 5"
    assert values.origin(("score", "steps", 1)).place == "run.yaml, line 4"
    assert values.origin(("score", "size", "x")).place == "run.yaml, line 2"
    assert values.origin(("score", "pairs")).place == "--set score.pairs"
    assert values.origin(("score",)).place == "--set score.pairs", "what was said last made the section wrong"
    assert values.origin(("model",)).place == "run.yaml, line 1"
