"""Which class of the data set a name or a number of a foreign set means."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from ddps_ray.errors import UserError
from ddps_ray.sources import classes, folders, wordnet
from ddps_ray.sources.listing import WNID

_NUMBER = re.compile(r"(?P<before>.*?)(?P<number>[0-9]{1,9})", re.DOTALL)
_MOST_SAID, _FEW = 5, 3
_IMAGENET = 1000  # classes


class Naming:
    """The classes of a data set, found by what a foreign set calls them.

    Attributes:
        given: The set's classes in the order of its numbers, where the user has given them.
    """

    def __init__(
        self, labels: Mapping[str, int], wnids: Mapping[str, str], given: tuple[str, ...] | str | None
    ) -> None:
        """Takes the classes of the data set, and those that the user gives.

        Args:
            labels: Number of each class id of the data set.
            wnids: WordNet ids of class ids.
            given: `ForeignSet.classes`.

        Raises:
            UserError: Given classes are none of the data set, or one is given twice, or their file cannot be read.
        """
        self._labels = labels
        self._by_name = {wnid: class_id for class_id, wnid in wnids.items() if class_id in labels}
        self._by_name |= {class_id: class_id for class_id in labels}
        self._wnids = wnids
        self.given: tuple[str, ...] | None = None
        if given is not None:
            self.given = tuple(self._all_found(_read(given), "classes: ").values())

    @property
    def known(self) -> object:
        """All that the meaning of names and numbers depends on."""
        return self.given, sorted(self._labels.items()), sorted(self._by_name.items())

    @property
    def numbered(self) -> dict[int, str]:
        """The class of each number: places among the given classes, or the data set's own labels."""
        if self.given is not None:
            return dict(enumerate(self.given))
        return {label: class_id for class_id, label in sorted(self._labels.items(), key=lambda item: item[1])}

    def of_numbers(self, numbers: Iterable[int]) -> dict[int, str]:
        """Returns the class of each number.

        Raises:
            UserError: One is out of range, or what it means cannot be known.
        """
        self._check_unmistakable()
        return self._of_numbers(numbers, self.numbered)

    def of_columns(self, count: int) -> list[str]:
        """Returns the class of each column of soft labels; errors as in `of_numbers`."""
        self._check_unmistakable()
        known = self.numbered
        if count != len(known):
            whose = "there are given" if self.given is not None else "the data set has"
            raise UserError(
                f"the soft labels are of {count} classes, but {whose} {len(known)}: name its classes, in the order of "
                "the columns, in `classes`"
            )
        return list(known.values())

    def of_names(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the class of each name: a class id or a WordNet id.

        Raises:
            UserError: The data set has no such class, or two names mean the same, or the class is none of the given.
        """
        return self._among_given(self._all_found(names))

    def _all_found(self, names: Iterable[str], where: str = "") -> dict[str, str]:
        found = {name: self._find(name) for name in names}
        if lacking := [name for name, class_id in found.items() if class_id is None]:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise UserError(f"{where}{lacking[0]!r}{more}: the data set has no such class; it has {self._some()}")
        return _apart({name: class_id for name, class_id in found.items() if class_id is not None}, where)

    def of_folders(self, names: Sequence[str]) -> dict[str, str]:
        """Returns the class of each class folder: by its name, or, where none is one, by the number at its end.

        Raises:
            UserError: As in `of_names` and `of_numbers`.
        """
        numbers = _numbers(names)
        if numbers is None or (self.are_some(names) and not self._are_numbers()):
            return self.of_names(names)
        by_id = {int(class_id): class_id for class_id in self._labels} if self._are_numbers() else None
        found = self._of_numbers(numbers.values(), by_id or self.numbered)
        return self._among_given(_apart({name: found[number] for name, number in numbers.items()}))

    def are_some(self, names: Iterable[str]) -> bool:
        """Says whether one of the names is that of a class."""
        return any(self._find(name) is not None for name in names)

    def of_set(self, used: Iterable[str]) -> tuple[str, ...]:
        """Returns, sorted, the classes of a set: the given ones, even those without an image, or those used."""
        return tuple(sorted(set(used) if self.given is None else self.given))

    def doubt(self, used: Collection[str], what: str) -> tuple[str, ...]:
        """Warns where numbers go by the data set's labels, and the set may number other classes, or in another order.

        The order of all of ImageNet-1K is everyone's; classes without WordNet ids are mostly those of a data set that
        is distributed with numbers.

        Args:
            used: Classes of the set.
            what: What are numbers.
        """
        known = self.numbered
        if self.given is not None:
            return ()
        if len(used) != len(known):
            return (
                f"its {what} are numbers, of {len(used)} of the data set's {len(known)} classes, such as {min(used)}: "
                "if it numbers others, name them in `classes`",
            )
        if not self._wnids.keys() & known.values() or self._are_numbers() or self._is_imagenet():
            return ()
        meant = ", ".join(f"{number} is {class_id}" for number, class_id in list(known.items())[:_FEW])
        return (
            f"its {what} are numbers without names, and taken as the data set's own: {meant}, and so on: if it numbers "
            "the classes in another order, name them in that order in `classes`",
        )

    def _is_imagenet(self) -> bool:
        wnids = [self._wnids.get(class_id) for class_id in self.numbered.values()]
        return len(wnids) == _IMAGENET and wnids == list(wordnet.imagenet())

    def _find(self, name: str) -> str | None:
        return self._by_name.get(name, self._by_name.get(classes.safe(name)) if name else None)

    def _among_given(self, found: dict[str, str]) -> dict[str, str]:
        for name, class_id in found.items():
            if self.given is not None and class_id not in self.given:
                raise UserError(f"{name!r} is class {class_id!r}, which is none of those in `classes`")
        return found

    def _of_numbers(self, numbers: Iterable[int], known: Mapping[int, str]) -> dict[int, str]:
        found = {}
        for number in numbers:
            if number not in known:
                whose = "the given classes" if self.given is not None else "the data set's"
                raise UserError(
                    f"label {number} is out of range: {whose} are {len(known)}, from {min(known)} to {max(known)}"
                )
            found[number] = known[number]
        return found

    def _are_numbers(self) -> bool:
        """Whether all class ids are whole numbers, no two of them the same."""
        numbers = [int(class_id) for class_id in self._labels if class_id.isascii() and class_id.isdecimal()]
        return len(set(numbers)) == len(self._labels)

    def _check_unmistakable(self) -> None:
        """Raises UserError where class ids are numbers, but not those that the data set numbers the classes by."""
        if self.given is None and self._are_numbers():
            for class_id, label in self._labels.items():
                if int(class_id) != label:
                    raise UserError(
                        f"its labels are numbers, and so are the data set's class ids, but class {class_id!r} has "
                        f"number {label}: name the classes in the order of the labels in `classes`"
                    )

    def _some(self) -> str:
        ids = sorted(self._labels)
        return ", ".join(ids[:_MOST_SAID]) + (f" and {len(ids) - _MOST_SAID} more" if len(ids) > _MOST_SAID else "")


def _read(given: tuple[str, ...] | str) -> tuple[str, ...]:
    """The user's classes, in order."""
    if not isinstance(given, str):
        return _unique(given)
    if given == classes.IMAGENET:
        return wordnet.imagenet()
    lines = (line.strip() for line in folders.read_text(given, "classes").splitlines())
    return _unique(tuple(line for line in lines if line))


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise UserError("classes: the file names none")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"classes: {twice[0]!r} is there twice")
    return names


def _apart(found: dict[str, str], where: str = "") -> dict[str, str]:
    meant: dict[str, str] = {}
    for name, class_id in found.items():
        if (other := meant.setdefault(class_id, name)) != name:
            raise UserError(f"{where}{other!r} and {name!r} are both class {class_id!r}")
    return found


def _numbers(names: Sequence[str]) -> dict[str, int] | None:
    """The whole number at the end of each name, where all have one and the same text before it; not WordNet ids."""
    if any(map(WNID.fullmatch, names)):
        return None
    found = {name: _NUMBER.fullmatch(name) for name in names}
    numbers = {name: match for name, match in found.items() if match}
    if len(numbers) < len(names) or len({match["before"] for match in numbers.values()}) > 1:
        return None
    return {name: int(match["number"]) for name, match in numbers.items()}
