"""What pydantic says of a recipe, as one line in a user's words: where it was written, which key, what is expected."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from ddps_ray import yaml_values
from ddps_ray.errors import UserError
from ddps_ray.yaml_values import Origin, Path, Values

_WORDS = {
    "missing": "is required",
    "tuple_type": "must be a list, such as [{input}]",
    "list_type": "must be a list, such as [{input}]",
    "dict_type": "must be a section of keys",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}, not {actual_length}",
    "literal_error": "must be {expected}",
}
"""By pydantic's name of an error; what has none here is said in pydantic's own words."""

_WITHOUT_INPUT = ("missing", "extra_forbidden", "value_error", "too_short", "too_long")
_LONGEST = 60


def as_user_error(error: ValidationError, model: type[BaseModel], values: Values) -> UserError:
    """Returns the first mistake of a recipe, in one line.

    Args:
        error: What pydantic raised.
        model: The model of the whole recipe.
        values: What was checked.
    """
    found = [(_path(model, each["loc"]), each) for each in error.errors(include_url=False)]
    first = found[0][0]
    same = [path for path, _ in found if path[: len(first)] == first]
    path = max(same, key=len)  # of the kinds that a value may have, the one that it is most like
    mine = [each for other, each in found if other == path]
    said = " or ".join(dict.fromkeys(_said(model, path, each, values) for each in mine)).replace(" or must be", " or")
    return yaml_values.mistake(values.origin(path).place, path, said + _got(mine[0], path, values))


def _said(model: type[BaseModel], path: Path, each: Any, values: Values) -> str:
    kind = each["type"]
    if kind == "extra_forbidden":
        return f"no such key{_nearest(model, path)}"
    if kind == "literal_error":
        near = get_close_matches(str(each["input"]), re.findall("'([^']*)'", each["ctx"]["expected"]), 1)
        return f"must be {each['ctx']['expected']}{f'; did you mean {near[0]!r}?' if near else ''}"
    if kind == "string_type":
        return _no_text(each["input"], values.origins.get(path))
    if kind == "missing" and isinstance(path[-1], int):
        return "is absent: the list has too few values"
    if kind in _WORDS:
        words = _WORDS[kind] if each["input"] is not None else _WORDS[kind].partition(", such as")[0]
        return words.format(input=each["input"], **each.get("ctx", {}))
    return str(each["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _no_text(value: Any, origin: Origin | None) -> str:
    text, kind = (origin.text, origin.kind) if origin is not None else (None, "")
    if text == "":
        return "is empty: write '' for empty text"
    if text is not None and kind:
        return f"must be text, and YAML reads {text} as {kind}: write it in quotes, '{text}'"
    if kind:
        return f"must be text, and YAML reads {kind}: put it in quotes"
    return "must be text" + (": put a value with a colon and a blank in quotes" if isinstance(value, dict) else "")


def _got(each: Any, path: Path, values: Values) -> str:
    if each["type"] in _WITHOUT_INPUT or isinstance(each["input"], dict):
        return ""
    written = values.origins[path].text if path in values.origins else None
    if written == "":
        return "" if each["type"] == "string_type" else " (got nothing)"
    shown = written if written is not None else repr(each["input"])
    return f" (got {shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + '…'})"


def _nearest(model: type[BaseModel], path: Path) -> str:
    """The known keys that an unknown one is like: of the same name in another section, or of nearly the same here."""
    *parent, name = path
    section = _follow(model, tuple(parent))[1]
    here = get_close_matches(str(name), section.model_fields if _is_model(section) else (), 2, 0.7)
    near = [key for key in _keys(model) if key.rpartition(".")[2] == name]
    near += [".".join(map(str, [*parent, key])) for key in here]
    return f"; did you mean {' or '.join(near[:2])}?" if near else ""


def _keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield above + name
        if _is_model(field.annotation):
            yield from _keys(cast(type[BaseModel], field.annotation), f"{above}{name}.")


def _path(model: type[BaseModel], location: tuple[Any, ...]) -> Path:
    return _follow(model, location)[0]


def _follow(model: type[BaseModel], location: Path) -> tuple[Path, Any]:
    """Follows a location of pydantic's, which also names the members of unions: the keys alone, and what is there."""
    path: Path = ()
    here: Any = model
    for part in location:
        kinds = _members(here)
        models = [kind for kind in kinds if _is_model(kind)]
        if models:
            known = models[0].model_fields.get(part)
            path, here = (*path, part), known.annotation if known else None
        elif part != "[key]" and any(getattr(kind, "__origin__", None) in (dict, tuple) for kind in kinds):
            inner = next(kind for kind in kinds if getattr(kind, "__origin__", None) in (dict, tuple))
            if isinstance(part, int) or inner.__origin__ is dict:
                path, here = (*path, part), get_args(inner)[1 if inner.__origin__ is dict else 0]
    return path, here


def _members(kind: Any) -> list[Any]:
    """The members of a union, or the kind itself, without what annotates them."""
    if hasattr(kind, "__metadata__"):
        return _members(kind.__origin__)
    if hasattr(kind, "__origin__") and kind.__origin__ in (dict, tuple):
        return [kind]
    arguments = get_args(kind)
    return [each for member in arguments for each in _members(member)] if arguments else [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
