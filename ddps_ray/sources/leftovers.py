"""What lies in a data set besides its images: files of other endings, and folders that systems leave behind."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_MOST = 5

_SYSTEM = frozenset(
    {
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "lost.dir",
        "__macosx",
        "network trash folder",
        "temporary items",
        ".temporaryitems",
        "thevolumesettingsfolder",
        ".trashes",
        ".appledouble",
        ".spotlight-v100",
        ".fseventsd",
        "@eadir",
        "@tmp",
        "@sharebin",
        "@sharesnap",
        "#recycle",
        "#snapshot",
        "~snapshot",
        ".snapshot",
        ".snapshots",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        ".@__thumb",
        ".thumbnails",
        "_gsdata_",
        ".ipynb_checkpoints",
        "__pycache__",
    }
)
_ENDING = re.compile(r"\.\w{1,12}$", re.ASCII)
_NUMBERED = re.compile(r"\.trash(-\d+)?|found\.\d{3}")


def is_system(name: str) -> bool:
    """Says whether a folder is one that a system leaves: waste baskets, snapshots, thumbnails, what a repair found."""
    folded = name.casefold()
    return folded in _SYSTEM or _NUMBERED.fullmatch(folded) is not None


@dataclass
class Leftovers:
    """What is not listed.

    Attributes:
        endings: Number of other files by their ending.
        folders: Folders that systems leave, as they are called in the data set.
        loose: Images that are in no class folder, by the folder that they are in.
        dangling: Number of links that lead nowhere.
    """

    endings: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    loose: Counter[str] = field(default_factory=Counter)
    dangling: int = 0

    def add_files(self, names: Iterable[str]) -> None:
        """Counts files, by their names or paths, that are not images by their endings."""
        self.endings.update(map(ending, names))

    def add(self, other: "Leftovers") -> None:
        """Takes what is not listed of another part of the data set."""
        self.endings += other.endings
        self.folders += other.folders
        self.loose += other.loose
        self.dangling += other.dangling

    @property
    def count(self) -> int:
        """Files that are not listed, but for those in the folders of systems."""
        return self.endings.total() + self.loose.total() + self.dangling

    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, a line each."""
        lines = [
            f"{count} images that lie in {folder} itself, in no class folder, are skipped"
            for folder, count in self.loose.items()
        ]
        if self.endings:
            lines.append(f"other files are skipped: {in_words(self.endings)}")
        if self.dangling:
            lines.append(f"warning: {links(self.dangling)}, skipped")
        if self.folders:
            more = f" and {len(self.folders) - _MOST} more" if len(self.folders) > _MOST else ""
            lines.append(f"passed over, as systems leave them: {', '.join(self.folders[:_MOST])}{more}")
        return tuple(lines)


def links(count: int) -> str:
    """Says how many links there are that lead nowhere."""
    return f"{count} link that leads nowhere" if count == 1 else f"{count} links that lead nowhere"


def ending(name: str) -> str:
    """Ending of a file's name in small letters, with its dot; empty where it has none that is a word."""
    found = _ENDING.search(name)
    return found[0].lower() if found else ""


def in_words(endings: Counter[str]) -> str:
    """Says how many files have which ending, the most frequent ones first."""
    most = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    said = [f"{count} {name or 'without an ending'}" for name, count in most[:_MOST]]
    others = sum(count for _, count in most[_MOST:])
    return ", ".join(said) + (f" and {others} of other endings" if others else "")
