"""How many patches a class gives, how many come from each cluster, and which go into one image (paper, section 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Budget:
    """What one class gives at one IPC.

    Attributes:
        images: Distilled images, the IPC.
        columns: Patches in a row of an image: 2 in a mosaic of two by two, 1 where a patch is an image.
        top_clusters: N, the clusters from which patches are taken before the fill.
        per_cluster: Patches to take from each of them.
    """

    images: int
    columns: int
    top_clusters: int
    per_cluster: int

    @property
    def patches(self) -> int:
        """Patches in all the images together: so many scored images a class must have."""
        return self.images * self.columns**2


def plan(ipc: int, top_clusters: int, *, mosaic: bool) -> Budget:
    """Divides an IPC (paper, supplementary section 5): `4·IPC // N` patches a cluster for mosaics, else `IPC // N`.

    Args:
        ipc: Images per class.
        top_clusters: N.
        mosaic: Whether an image is a mosaic of four patches.
    """
    columns = 2 if mosaic else 1
    return Budget(ipc, columns, top_clusters, ipc * columns**2 // top_clusters)


def deal(chosen: Sequence[Item], budget: Budget) -> list[list[Item]]:
    """Deals patches, best first, to the images: slot k of image i holds number `k·images + i`.

    It is RDED's rule for its mosaics; the paper names none. Neighbours in the order are of the same cluster, so it also
    gives every mosaic four clusters: the patches of one cluster are at most `4·images // N` in a row, and two slots of
    an image are `images` apart (so for every N ≥ 4, save patches of the fill).

    Returns:
        For each image its patches by slot, row by row.
    """
    slots = range(budget.columns**2)
    return [[chosen[slot * budget.images + i] for slot in slots] for i in range(budget.images)]


def shortage(ipc: int, available: int, *, mosaic: bool) -> str | None:
    """Says why a class cannot give so many images, and what it can give; None if it can.

    Args:
        ipc: Images per class asked for.
        available: Images of the class.
        mosaic: As in `plan`.
    """
    budget = plan(ipc, 1, mosaic=mosaic)
    if available >= budget.patches:
        return None
    if budget.columns == 1:
        return f"{ipc} images of each class are asked, and it has {available}"
    fewer = f"ipc up to {available // budget.columns**2}, or, " if available >= budget.columns**2 else ""
    return (
        f"{ipc} mosaics of four patches need {budget.patches} images of each class, and it has {available}: possible "
        f"is {fewer}with single patches (composition: single), ipc up to {available}"
    )
