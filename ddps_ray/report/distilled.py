"""The distilled sets on the page: images of each class side by side, and the patches of the most typical clusters."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ddps_ray import schemas, storage
from ddps_ray.errors import BadImage, UserError
from ddps_ray.report import pictures
from ddps_ray.report.pictures import Picture
from ddps_ray.selection import records
from ddps_ray.selection.sets import METADATA
from ddps_ray.sources.reading import read_image
from ddps_ray.storage import Run

CLUSTERS, PATCHES = 5, 8
"""Clusters shown of a class, and patches shown of a cluster."""

_THUMBNAILS = 600
_MOST = 10
_IMAGE_PIXELS, _PATCH_PIXELS = 128, 96
_COLUMNS = ["file", "slot", "class_id", "label", "typicality", "cluster", "cluster_typicality", "rank"]


@dataclass(frozen=True)
class DistilledSet:
    """One distilled set at one IPC.

    Attributes:
        name: The set's name.
        selector: How it was selected.
        ipc: Images per class.
        uri: Its folder.
        rows: Its metadata, one row a patch, by label, file and slot.
        title: Its name, with the settings that tell it from other sets of that name.
    """

    name: str
    selector: str
    ipc: int
    uri: str
    rows: list[dict[str, Any]]
    title: str

    @property
    def classes(self) -> list[str]:
        """Its class ids in the order of their labels."""
        return list(dict.fromkeys(row["class_id"] for row in self.rows))

    @property
    def is_mosaic(self) -> bool:
        """Whether its images are made of four patches."""
        return any(row["slot"] > 0 for row in self.rows)

    def files(self, class_id: str) -> list[str]:
        """Paths of a class's images inside the set."""
        return list(dict.fromkeys(row["file"] for row in self.rows if row["class_id"] == class_id))

    def image(self, file: str) -> Image.Image:
        """Reads one of its images.

        Raises:
            UserError: It is lost or damaged.
        """
        uri = storage.join(self.uri, file)
        try:
            return read_image(uri)
        except BadImage as error:
            raise UserError(f"{uri} is in the set's metadata, but {error}") from error

    def patch(self, row: dict[str, Any]) -> Image.Image:
        """Reads one patch as it is in the set: the whole image, or its quarter of a mosaic."""
        image = self.image(row["file"])
        if not self.is_mosaic:
            return image
        width, height = image.width // 2, image.height // 2
        left, top = row["slot"] % 2 * width, row["slot"] // 2 * height
        return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class Cluster:
    """Patches that a set took from one cluster of a class.

    Attributes:
        place: 1 for the cluster with the highest median typicality of its class.
        typicality: Median T of all its patches; None in a set of an earlier layout.
        patches: The nearest to its centre first.
        count: How many the set took.
    """

    place: int
    typicality: float | None
    patches: list[Picture]
    count: int


def find(run: Run) -> list[DistilledSet]:
    """Reads the metadata of all sets that have been made, by IPC and in the order in which they were begun."""
    found = [
        DistilledSet(made.name, made.settings["selector"], made.ipc, made.uri, _metadata(made.uri), made.title)
        for made in records.recorded(run)
        if made.finished and storage.exists(storage.join(made.uri, METADATA))
    ]
    return sorted(found, key=lambda each: each.ipc)


def pick_classes(sets: list[DistilledSet], most: int) -> list[str]:
    """Chooses classes to show, evenly from the order of the labels; those that all sets share, if there are any."""
    every = list(dict.fromkeys(class_id for each in sets for class_id in each.classes))
    shared = set(every).intersection(*(each.classes for each in sets))
    common = [class_id for class_id in every if class_id in shared] or every
    places = np.linspace(0, len(common) - 1, min(most, len(common))).round().astype(int)
    return [common[place] for place in places.tolist()]


def images(sets: list[DistilledSet], classes: list[str], names: dict[str, str]) -> dict[int, list[dict[str, Any]]]:
    """Thumbnails by IPC, class and set.

    Returns:
        For each IPC the classes, each with its name and, set by set, the set, thumbnails and number of images.
    """
    most = min(_MOST, max(2, _THUMBNAILS // max(1, len(sets) * len(classes))))
    shown: dict[int, list[dict[str, Any]]] = {}
    for ipc in dict.fromkeys(each.ipc for each in sets):
        for class_id in classes:
            parts = []
            for each in sets:
                if each.ipc == ipc and (files := each.files(class_id)):
                    alt = f"{each.title}, {names[class_id]}: image"
                    thumbnails = [
                        pictures.picture(each.image(file), f"{alt} {i}", _IMAGE_PIXELS)
                        for i, file in enumerate(files[:most], 1)
                    ]
                    parts.append({"set": each, "pictures": thumbnails, "count": len(files)})
            if parts:
                shown.setdefault(ipc, []).append({"name": names[class_id], "parts": parts})
    return shown


def clusters(
    sets: list[DistilledSet], classes: list[str], names: dict[str, str]
) -> tuple[DistilledSet, list[tuple[str, list[Cluster]]]] | None:
    """Top clusters of each class, as the largest clustered set has them.

    Returns:
        That set, and each class's name and clusters; None if no set is clustered.
    """
    clustered = [each for each in sets if any(row["cluster"] is not None for row in each.rows)]
    if not clustered:
        return None
    largest = max(clustered, key=lambda each: each.ipc)
    return largest, [(names[class_id], _clusters(largest, class_id)) for class_id in classes]


def _clusters(each: DistilledSet, class_id: str) -> list[Cluster]:
    members: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in each.rows:
        if row["class_id"] == class_id and row["cluster"] is not None:
            members[row["cluster"]].append(row)
    return [_cluster(each, place, members[place]) for place in sorted(members)[:CLUSTERS]]


def _cluster(each: DistilledSet, place: int, rows: list[dict[str, Any]]) -> Cluster:
    nearest = sorted(rows, key=lambda row: row["rank"])[:PATCHES]
    patches = [
        pictures.picture(each.patch(row), f"patch {i} of cluster {place + 1}", _PATCH_PIXELS)
        for i, row in enumerate(nearest, 1)
    ]
    return Cluster(place + 1, rows[0]["cluster_typicality"], patches, len(rows))


def _metadata(uri: str) -> list[dict[str, Any]]:
    filesystem, path = storage.open_uri(storage.join(uri, METADATA))
    order = [(name, "ascending") for name in ("label", "file", "slot")]
    rows = schemas.dataset([path], filesystem, schemas.DISTILLED).to_table(_COLUMNS)
    return list(rows.sort_by(order).to_pylist())
