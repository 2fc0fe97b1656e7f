"""How data sets lie on disk: one table of layouts, each of which knows its own and lists it as manifest rows."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ddps_ray.errors import UserError
from ddps_ray.sources import folders, huggingface, imagefolder, imagenet, listing, packed, tiny_imagenet, webdataset
from ddps_ray.sources.cifar import CIFAR10, CIFAR100
from ddps_ray.sources.listing import Listing

AUTO = "auto"


class Layout(Protocol):
    """What a layout can do."""

    def recognises(self, root: str, splits: Sequence[str]) -> bool:
        """Whether a folder looks like it; arguments as in `list_images`."""

    def list_images(
        self, root: str, splits: Sequence[str], names: Mapping[str, str] | None = None, ground_truth: str | None = None
    ) -> Listing:
        """Lists the images of the splits, the training split first.

        Args:
            root: Folder or URI, absolute.
            splits: Names of the splits.
            names: The user's names by class id.
            ground_truth: File of the classes of images that are not in class folders.

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
    for name, each in LAYOUTS.items():
        if each.recognises(root, splits):
            return name
    if folders.folders(root):
        return "imagefolder"  # whose errors say which folder is missing
    raise UserError(f"data.root: {root} has no data set of a known layout ({', '.join(LAYOUTS)})")


def list_images(
    layout: str, root: str, splits: Sequence[str], names: Mapping[str, str] | None, ground_truth: str | None
) -> Listing:
    """Lists a data set of a layout and checks the listing; arguments as in `Layout.list_images`.

    Raises:
        UserError: As in `Layout.list_images` and `listing.check`.
    """
    try:
        return listing.check(LAYOUTS[layout].list_images(root, splits, names, ground_truth))
    finally:
        folders.forget()
