"""From YAML text to plain values; what YAML would drop, or read as something else, is an error with its line.

What remains: in a file, a value without quotes ends before ` # `, a # between blanks, since most of these are comments.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from ddps_ray.errors import UserError

Path = tuple[str | int, ...]
"""Keys and indices that lead to a value."""

_TAG = "tag:yaml.org,2002:"
_READ = ("null", "bool", "int", "float", "str", "seq", "map")
_NUMBERS = {
    "int": re.compile(r"[-+]?(0|[1-9]\d*)"),
    "float": re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)(e[-+]?\d+)?|[-+]?\.(inf|nan)", re.I),
}
"""Numbers as everybody writes them; YAML also has octal 010, 1:30 to the base of 60, and 1_000."""

_CUT = re.compile(r"[ \t]+#+[^\s#]\S*")
"""What YAML takes for a comment after a value, and is more likely a part of it: comments have a blank after the #."""

_KINDS = {"null": "nothing", "bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date"}
_FLOWS = {"map": "{ } as a section", "seq": "[ ] as a list"}
_HINTS = {
    "expected '<document start>'": "; put all of it in quotes",
    "expected the node content": "; put all of it in quotes",
    "expected <block end>, but found '<scalar>'": "; a value that begins with {, [ or a quote needs quotes around all",
    "expected ',' or": "; a bracket is not closed, or a # after a blank ends the line before it",
    "expected <block end>": "; keys of the same section begin in the same column",
    "mapping values are not allowed here": "; a value with a colon and a blank needs quotes",
    "found character '\\t'": "; use blanks, not tabs",
    "found unexpected end of stream": "; a quote is not closed",
}


@dataclass(frozen=True)
class Origin:
    """Where a value was written.

    Attributes:
        place: In words: file and line, or the command line's option.
        text: A plain scalar as written; None for others.
        kind: What YAML takes that text for, in words; or braces or brackets without quotes.
        line: Number of the line, from 1; 0 for what the command line says.
    """

    place: str
    text: str | None = None
    kind: str = ""
    line: int = 0


@dataclass(frozen=True)
class Values:
    """Plain values, and where each was written.

    Attributes:
        plain: Nested mappings, lists and scalars.
        source: What they came from, in words.
        origins: Where each was written, by path.
    """

    plain: dict[str, Any]
    source: str
    origins: dict[Path, Origin] = field(default_factory=dict)

    def origin(self, path: Path) -> Origin:
        """Where a value was written; of a section, what the command line last said of it; of what is absent, where."""
        said = [found for known, found in self.origins.items() if known[: len(path)] == path and not found.line]
        if said:
            return said[-1]
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin(self.source))


def read(text: str, source: str) -> Values:
    """Reads a YAML file whose top is a mapping.

    Args:
        text: Its contents.
        source: Its name, for errors.

    Raises:
        UserError: It is not YAML, or a key is written twice or is no text, or YAML reads a value as another than is
            written.
    """
    values, origins = _load(text, source, (), lines=True)
    if not isinstance(values, dict):
        raise UserError(f"{source}: a recipe is a mapping of sections")
    return Values(values, source, origins)


def override(values: Values, text: str) -> None:
    """Puts a value in, over one that may be there.

    Args:
        values: Changed in place.
        text: `section.key=value`, the value in YAML.

    Raises:
        UserError: It has another form, or as in `read`, or YAML drops a part of the value.
    """
    key, equals, written = text.partition("=")
    path, option = tuple(key.split(".")), f"--set {key}"  # without the value, which may be a secret
    if not equals or not all(path):
        raise UserError(f"{option}: write section.key=value")
    value, origins = _load(written, option, path, lines=False)
    target = values.plain
    for section in path[:-1]:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"{option}: {section} is not a section")
    target[path[-1]] = value
    for known in [known for known in values.origins if known[: len(path)] == path]:
        del values.origins[known]
    values.origins.update(origins)


def _load(text: str, source: str, path: Path, *, lines: bool) -> tuple[Any, dict[Path, Origin]]:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        origins: dict[Path, Origin] = {}
        if node is not None:
            _Walk(text, source, lines, origins).visit(node, path, 0)
        elif not lines:
            origins[path] = Origin(source, "", _KINDS["null"])
        if not lines and _is_cut(text, node):
            raise UserError(f"{source}: YAML reads only a part of the value: put all of it in quotes")
        return (None if node is None else loader.construct_document(node)), origins
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if lines and error.problem_mark else ""
        hint = next((hint for said, hint in _HINTS.items() if said in str(error.problem)), "")
        raise UserError(f"{source}{line}: the value is not YAML: {error.problem}{hint}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: the value is not YAML: {' '.join(str(error).split())}") from error


def _is_cut(text: str, node: yaml.Node | None) -> bool:
    """Says whether a comment, or a mark of a document, has taken a part of a value of one line."""
    if node is None or (node.start_mark.index == node.end_mark.index and text.strip()):
        return bool(text.strip())
    return bool(text[node.end_mark.index :].strip())


def mistake(place: str, path: Path, said: str) -> UserError:
    """The line that says where something was written, which key it is, and what is wrong with it."""
    key = ".".join(map(str, path)) or "recipe"
    return UserError(f"{place}: {said}" if place == f"--set {key}" else f"{place}: {key}: {said}")


class _Walk:
    """Goes through a document's nodes; notes where each value is written, and refuses what is not as it looks."""

    def __init__(self, text: str, source: str, lines: bool, origins: dict[Path, Origin]) -> None:
        self._text, self._source, self._lines, self._origins = text, source, lines, origins
        self._above: set[int] = set()

    def visit(self, node: yaml.Node, path: Path, line: int) -> None:
        """Takes a node, the path to it, and the line, from 0, at which it is said to be: that of its key."""
        kind = node.tag.removeprefix(_TAG)
        if id(node) in self._above:
            raise self._wrong(line, path, "holds itself")
        self._above.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node, kind, path, line)
        else:
            flow = isinstance(node, yaml.CollectionNode) and node.flow_style
            self._note(path, line, kind=_FLOWS.get(kind, "") if flow else "")
            if kind not in _READ:
                raise self._wrong(line, path, f"YAML's {node.tag} is not read")
            if isinstance(node, yaml.MappingNode):
                self._mapping(node, path)
            else:
                for index, inner in enumerate(node.value):
                    self.visit(inner, (*path, index), inner.start_mark.line)
        self._above.remove(id(node))

    def _scalar(self, node: yaml.ScalarNode, kind: str, path: Path, line: int) -> None:
        text = node.value if node.style is None else None
        self._note(path, line, text, _KINDS.get(kind, ""))
        if self._lines and node.style is None and (cut := _CUT.match(self._text, node.end_mark.index)):
            raise self._wrong(
                line, path, f"YAML cuts the value before {cut[0].strip()}: put the value in quotes, or a blank after #"
            )
        usual = _NUMBERS.get(kind)
        if kind in _READ and (usual is None or usual.fullmatch(node.value)):
            return
        quoted, what = f"in quotes, '{node.value}'", _KINDS.get(kind, node.tag)
        if usual is None:
            raise self._wrong(line, path, f"YAML reads {node.value} as {what}: write it {quoted}")
        number = yaml.safe_load(node.value)
        raise self._wrong(
            line, path, f"YAML reads {node.value} as the number {number}: write {number}, or, if it is text, {quoted}"
        )

    def _mapping(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line, str(key.value)
            if key.tag.removeprefix(_TAG) not in ("str", "merge"):
                raise self._wrong(line, (*path, name), f"a key is text: write '{name}', in quotes")
            if name in seen:
                before = f", first in line {seen[name] + 1}" if self._lines else ""
                raise self._wrong(line, (*path, name), f"is written twice{before}")
            seen[name] = line
            self.visit(value, (*path, name), line)

    def _note(self, path: Path, line: int, text: str | None = None, kind: str = "") -> None:
        self._origins[path] = Origin(self._place(line), text, kind, line + 1 if self._lines else 0)

    def _wrong(self, line: int, path: Path, said: str) -> UserError:
        return mistake(self._place(line), path, said)

    def _place(self, line: int) -> str:
        return f"{self._source}, line {line + 1}" if self._lines else self._source
