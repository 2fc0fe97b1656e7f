"""Results of the same name under other settings: what tells them apart, in words."""

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

NOT_RECORDED = "not recorded"
"""Stands for a setting that a row of an earlier layout does not have."""


_DIGITS = 8
"""Of a digest, enough to tell two apart."""

OF_A_SET = frozenset({"selector", "images", "set_digest", "class_digest"})
"""What is another for each set anyway."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as texts by their dotted keys: `{"teacher": {"lr": 0.1}}` has the key `teacher.lr`."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return found


def varying(terms: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values are not the same in all of these, sorted."""
    keys = sorted({key for each in terms for key in each})
    return [key for key in keys if len({each.get(key) for each in terms}) > 1]


def words(terms: Mapping[str, str], keys: Sequence[str]) -> str:
    """These settings in words, e.g. `epochs 300, lr 0.001`."""
    return ", ".join(f"{key} {_short(key, terms.get(key, NOT_RECORDED))}" for key in keys)


def _short(key: str, value: str) -> str:
    return value[:_DIGITS] if key.endswith("digest") and value != NOT_RECORDED else value


def apart(names: Sequence[Hashable], terms: Sequence[Mapping[str, str]]) -> list[str]:
    """For each result what tells it from the others of its name; empty where no other has it.

    Args:
        names: What each result is called; several may have the same name.
        terms: Its settings.
    """
    groups: dict[Hashable, list[Mapping[str, str]]] = defaultdict(list)
    for name, own in zip(names, terms, strict=True):
        groups[name].append(own)
    keys = {name: varying(group) for name, group in groups.items()}
    return [words(own, keys[name]) for name, own in zip(names, terms, strict=True)]


def series(places: Sequence[Hashable], terms: Sequence[Mapping[str, str]]) -> tuple[list[str], set[str]]:
    """Words for each result that make lines of one table or chart of results which share a place.

    A setting in which any two of one place differ is told of all results, so that those of the same settings are one
    line; what is a set's own, only of those that differ in it.

    Args:
        places: Of each result; several may have the same.
        terms: Its settings.

    Returns:
        The words, empty where there is nothing to tell, and the keys of all settings that they tell.
    """
    groups: dict[Hashable, list[Mapping[str, str]]] = defaultdict(list)
    for place, own in zip(places, terms, strict=True):
        groups[place].append(own)
    differing = {place: set(varying(group)) for place, group in groups.items()}
    keys = {key for found in differing.values() for key in found}
    told = [
        words(own, [*sorted(keys - OF_A_SET), *sorted(differing[place] & OF_A_SET)])
        for place, own in zip(places, terms, strict=True)
    ]
    return told, keys
