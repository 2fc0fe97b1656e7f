"""Promises about the source itself: who may import Ray, and that what is read is never executed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ddps_ray

PACKAGE = Path(ddps_ray.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str | None, str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_only_the_pipeline_imports_ray() -> None:
    users = {name for name, tree in FILES.items() if "ray" in imports(tree)}
    assert "pipeline/index.py" in users
    assert {name for name in users if not name.startswith("pipeline/")} == set()


@pytest.mark.parametrize("name", FILES)
def test_nothing_that_is_read_is_executed(name: str) -> None:
    assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & set(imports(FILES[name]))
    for function, keywords in calls(FILES[name]):
        assert function not in ("eval", "exec", "yaml.load", "yaml.unsafe_load")
        assert function != "torch.load" or keywords.get("weights_only") == "True"
        assert keywords.get("allow_pickle", "False") == "False"
        assert keywords.get("trust_remote_code", "False") == "False"
