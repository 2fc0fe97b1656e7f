"""One class of a distilled set, from its candidates to image files and metadata rows; and all the rows in one file."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from PIL import Image

from ddps_ray import schemas, storage
from ddps_ray.config import Distill, DistilledSet
from ddps_ray.errors import BadImage, UserError
from ddps_ray.selection.budget import Budget, deal
from ddps_ray.selection.candidates import Candidates
from ddps_ray.selection.compose import arrange, cut, encode
from ddps_ray.selection.selectors import SELECTORS, Choice, Selector
from ddps_ray.selection.sets import METADATA
from ddps_ray.sources.reading import read_image

PARTS = ".parts"
"""Folder of the classes' rows while a set is being made."""


def write_class(candidates: Candidates, settings: Distill, wanted: DistilledSet, budgets: Mapping[str, Budget]) -> None:
    """Chooses and writes one class at several IPCs, with one clustering.

    Writes `train/<class_id>/<number>.<format>` and the class's metadata under `PARTS` in each folder, over whatever an
    interrupted attempt left there.

    Args:
        candidates: The class.
        settings: Settings of the stage.
        wanted: The set.
        budgets: For each folder what the class gives to it.

    Raises:
        UserError: An image that was scored cannot be read any more.
    """
    selector = SELECTORS[wanted.selector](candidates, settings.clusters, wanted.seed)
    for folder, budget in budgets.items():
        _write_images(candidates, selector, budget, settings, folder)


def merge(folder: str, class_ids: Sequence[str]) -> int:
    """Writes the metadata of a set from that of its classes.

    Args:
        folder: The set at one IPC.
        class_ids: All its classes; each must have been written.

    Returns:
        The number of distilled images.
    """
    filesystem, _ = storage.open_uri(folder)
    parts = [storage.open_uri(_part(folder, class_id))[1] for class_id in class_ids]
    rows = schemas.dataset(parts, filesystem, schemas.DISTILLED).to_table()
    rows = schemas.check(rows.sort_by([("file", "ascending"), ("slot", "ascending")]), schemas.DISTILLED)
    storage.write_table(storage.join(folder, METADATA), rows)
    return int(pc.count_distinct(rows.column("file")).as_py())


def _part(folder: str, class_id: str) -> str:
    """A class's rows; a class id may be as long as a file's name, and leave no room for an ending."""
    return storage.join(folder, PARTS, f"{hashlib.sha256(class_id.encode()).hexdigest()}.parquet")


def _write_images(candidates: Candidates, selector: Selector, budget: Budget, settings: Distill, folder: str) -> None:
    class_id, side = candidates.class_id, settings.size // budget.columns
    storage.remove(storage.join(folder, "train", class_id))
    rows: list[dict[str, Any]] = []
    for number, choices in enumerate(deal(selector.choose(budget), budget)):
        file = f"train/{class_id}/{number:05d}.{settings.format}"
        image = arrange([_patch(candidates, choice, side) for choice in choices], budget.columns)
        storage.write_bytes(storage.join(folder, file), encode(image, settings.format))
        rows += [{"file": file, "slot": slot} | _row(candidates, choice) for slot, choice in enumerate(choices)]
    columns = {name: [row[name] for row in rows] for name in schemas.DISTILLED.names}
    storage.write_table(_part(folder, class_id), schemas.table(columns, schemas.DISTILLED))


def _patch(candidates: Candidates, choice: Choice, side: int) -> Image.Image:
    uri = candidates.uris[choice.index]
    width, height = candidates.scaled[choice.index].tolist()
    try:
        return cut(read_image(uri), (width, height), choice.box, side)
    except BadImage as error:
        raise UserError(f"{uri} was scored, but is not usable any more: {error}") from error


def _row(candidates: Candidates, choice: Choice) -> dict[str, Any]:
    left, top, width, height = choice.box
    scaled_width, scaled_height = candidates.scaled[choice.index].tolist()
    return {
        "image_id": candidates.image_ids[choice.index],
        "class_id": candidates.class_id,
        "label": candidates.label,
        "left": left,
        "top": top,
        "width": width,
        "height": height,
        "scaled_width": scaled_width,
        "scaled_height": scaled_height,
        "typicality": candidates.typicality[choice.index],
        "cluster": choice.cluster,
        "cluster_typicality": choice.cluster_typicality,
        "rank": choice.rank,
        "reason": choice.reason,
    }
