"""ImageNet's names: what its WordNet ids are called, and which class of ImageNet-1K a name is."""

from collections.abc import Iterable
from functools import lru_cache

from ddps_ray.errors import UserError


def lemmas(wnids: Iterable[str]) -> dict[str, str]:
    """Returns the first name of each WordNet id that timm knows, in ImageNet-1K or in the larger sets."""
    return {wnid: said[0] for wnid, said in synonyms(wnids).items()}


def synonyms(wnids: Iterable[str]) -> dict[str, list[str]]:
    """Returns all names of each WordNet id that timm knows."""
    wnids = list(wnids)
    if not wnids:
        return {}
    from timm.data import ImageNetInfo  # takes seconds, so only where a class looks like a WordNet id

    info, found = ImageNetInfo(), {}
    for wnid in wnids:
        try:
            found[wnid] = [name.strip() for name in info.label_name_to_description(wnid).split(",")]
        except KeyError:
            continue
    return found


@lru_cache
def imagenet() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1K in the order of their labels."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def matched(names: Iterable[str]) -> dict[str, str]:
    """Finds names among those of ImageNet-1K.

    A name is a WordNet id, all synonyms of a class as ImageNet lists them, or its first one where no other class begins
    with the same. `maillot` is both the whole list of one class and the beginning of another's: it counts as the former
    where another of the names is a list.

    Returns:
        The WordNet id of each name.

    Raises:
        UserError: One is none of these, or two are the same class.
    """
    names = list(names)
    known = synonyms(imagenet())
    whole, first = _by_name({wnid: ", ".join(said) for wnid, said in known.items()}), _by_name(lemmas(imagenet()))
    lists = any("," in _folded(name) and _folded(name) in whole for name in names)
    found: dict[str, str] = {}
    for name in names:
        plain = _folded(name)
        ids = [name] if name in known else whole.get(plain, []) if lists else []
        ids = ids or first.get(plain.split(", ")[0], [])
        if len(ids) != 1:
            which = f"that of several of its classes, {' and '.join(ids)}" if ids else "none of its names"
            raise UserError(
                f"data.classes: imagenet-1k: {name!r} is {which}: give a table with the WordNet id in a third column"
            )
        if (other := next((each for each, wnid in found.items() if wnid == ids[0]), None)) is not None:
            raise UserError(f"data.classes: imagenet-1k: {other!r} and {name!r} are both {ids[0]}")
        found[name] = ids[0]
    return found


def _by_name(names: dict[str, str]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = {}
    for wnid, name in names.items():
        by_name.setdefault(_folded(name), []).append(wnid)
    return by_name


def _folded(name: str) -> str:
    """A name without capitals, underscores, and blanks that do not count."""
    words = [" ".join(word.replace("_", " ").split()) for word in name.split(",")]
    return ", ".join(words).casefold()
