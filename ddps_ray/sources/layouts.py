"""How data sets lie on disk: one table of layouts, each of which knows its own and lists it as manifest rows."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import (
    advice,
    folders,
    huggingface,
    imagefolder,
    imagenet,
    listing,
    packed,
    tiny_imagenet,
    webdataset,
)
from ddps_ray.sources.cifar import CIFAR10, CIFAR100
from ddps_ray.sources.listing import PLAIN, Listing, Options

AUTO = "auto"


class Layout(Protocol):
    """What a layout can do."""

    def recognises(self, root: str, splits: Sequence[str]) -> bool:
        """Whether a folder looks like it; arguments as in `list_images`."""

    def list_images(
        self,
        root: str,
        splits: Sequence[str],
        names: Mapping[str, str] | None = None,
        ground_truth: str | None = None,
        options: Options = PLAIN,
    ) -> Listing:
        """Lists the images of the splits, the training split first.

        Args:
            root: Folder or URI, absolute.
            splits: Names of the splits.
            names: The user's names by class id.
            ground_truth: File of the classes of images that are not in class folders.
            options: How to read it, where it could be read in several ways.

        Raises:
            UserError: The data set is not as it should be.
        """


LAYOUTS: Mapping[str, Layout] = {
    "packed": packed,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "tiny-imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "imagefolder": imagefolder,
    "webdataset": webdataset,
    "huggingface": huggingface,
}
"""By the name that a recipe uses; the first that recognises a folder has it."""

_HEED: Mapping[str, tuple[str, ...]] = {
    "class_folders": ("imagefolder",),
    "image_column": ("huggingface", "webdataset"),
    "label_column": ("huggingface", "webdataset"),
}
"""Layouts that heed each of the options."""

_DEEP, _WIDE, _MOST = 3, 8, 30  # how far a data set is looked for below the root, and in how many folders


def find(root: str, splits: Sequence[str], layout: str = AUTO) -> str:
    """Returns the name of a data set's layout.

    Args:
        root: Folder or URI.
        splits: Names of the splits, the training split first.
        layout: A name, which is returned; `AUTO` looks at what lies in the folder.

    Raises:
        UserError: The folder is not there, cannot be listed, or has nothing of what a layout has.
    """
    folders.forget()
    folders.check_root(root)
    if layout != AUTO:
        return layout
    with folders.remembering():
        return _found(root, splits)


def _found(root: str, splits: Sequence[str]) -> str:
    for name, each in LAYOUTS.items():
        if each.recognises(root, splits):
            return name
    if (inside := _inside(root, splits)) is not None:
        raise UserError(f"data.root: {root} has no data set of a known layout, but one of its folders has: {inside}")
    if folders.folders(root):
        return "imagefolder"  # whose errors say which folder is missing
    said = f"data.root: {root} has no data set of a known layout ({', '.join(LAYOUTS)})"
    raise UserError(said + advice.nothing(root))


def _inside(root: str, splits: Sequence[str]) -> str | None:
    """The folder below a root that a layout recognises, if there is one: archives unpack into a folder of their own."""
    level, visited = [root], 0
    for _ in range(_DEEP):
        inner = [storage.join(folder, name) for folder in level for name in _inner(folder)]
        for folder in inner:
            visited += 1
            if visited > _MOST:
                return None
            if len(folders.folders(folder)) <= _WIDE and any(_recognises(name, folder, splits) for name in LAYOUTS):
                return folder
        level = inner
    return None


def _inner(folder: str) -> Sequence[str]:
    """The subfolders of a folder, unless they are classes, or splits under other names."""
    names = folders.folders(folder)
    return () if len(names) > _WIDE or advice.WORDS & {name.casefold() for name in names} else names


def _recognises(layout: str, folder: str, splits: Sequence[str]) -> bool:
    """Whether a folder is a data set of a layout; folders of folders must have images, not only annotations of some."""
    try:
        return LAYOUTS[layout].recognises(folder, splits) and (
            layout != "imagefolder" or imagefolder.has_images(folder, splits[0])
        )
    except UserError:
        return False


def list_images(
    layout: str,
    root: str,
    splits: Sequence[str],
    names: Mapping[str, str] | None,
    ground_truth: str | None,
    options: Options = PLAIN,
) -> Listing:
    """Lists a data set of a layout and checks the listing; arguments as in `Layout.list_images`.

    Raises:
        UserError: As in `Layout.list_images` and `listing.check`, or the layout does not heed an option.
    """
    for option, heeding in _HEED.items():
        if getattr(options, option) != getattr(PLAIN, option) and layout not in heeding:
            raise UserError(f"data.{option}: the layout {layout} has no use for it; {' and '.join(heeding)} have")
    try:
        found = LAYOUTS[layout].list_images(root, splits, names, ground_truth, options)
        return listing.check(listing.apart(found))
    finally:
        folders.forget()
