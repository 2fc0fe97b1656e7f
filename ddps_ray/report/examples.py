"""Images with their typicality maps: where the diffusion model needs the class name, and where the name misleads it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from ddps_ray.errors import BadImage
from ddps_ray.report import pictures, tables
from ddps_ray.report.pictures import Picture
from ddps_ray.report.tables import Scores
from ddps_ray.sources.reading import read_image
from ddps_ray.storage import Run

COUNT = 8
"""Images in a row."""

_PIXELS = 240
_COLUMNS = (
    *("image_id", "uri", "class_id", "typicality", "scaled_width", "scaled_height"),
    *("left", "top", "patch_width", "patch_height", "map_width", "map_height", "map"),
)


@dataclass(frozen=True)
class Example:
    """One scored image.

    Attributes:
        image_id: Its id.
        class_name: What its class is called.
        typicality: T of its most typical patch.
        photo: The image with that patch's box; None if the image cannot be read any more.
        heat: The map over the image; None without image or map.
    """

    image_id: str
    class_name: str
    typicality: float
    photo: Picture | None
    heat: Picture | None


@dataclass(frozen=True)
class Gallery:
    """Rows of examples.

    Attributes:
        rows: Heading of each row, and its examples.
        limit: |T| at which the heat maps' colour is strongest; None if no map is stored.
        colours: Legend of the heat maps, from −limit to +limit.
    """

    rows: list[tuple[str, list[Example]]]
    limit: float | None
    colours: list[str]


def gallery(run: Run, scores: Scores, names: dict[str, str]) -> Gallery:
    """Builds rows of images of high, middle and low typicality, each row spread over the classes."""
    middle = np.abs(scores.typicality - np.median(scores.typicality))
    wanted = {
        "Highest typicality": spread(-scores.typicality, scores.class_id),
        "In the middle": spread(middle, scores.class_id),
        "Lowest typicality": spread(scores.typicality, scores.class_id),
    }
    rows = _rows(run, scores, sorted({place for places in wanted.values() for place in places}))
    maps = [np.abs(row["map_HW"]).ravel() for row in rows.values() if row["map_HW"] is not None]
    limit = max(float(np.percentile(np.concatenate(maps), 98)), 1e-9) if maps else None
    shown = {image_id: _example(row, limit, names) for image_id, row in rows.items()}
    parts = [(title, [shown[scores.image_id[place]] for place in places]) for title, places in wanted.items()]
    return Gallery(parts, limit, pictures.colour_stops())


def spread(order: np.ndarray, class_id: np.ndarray, count: int = COUNT) -> list[int]:
    """Picks the images that come first, but of no class more than its even share.

    Args:
        order: Number of each image to sort by, smallest first; of equal ones the earlier image.
        class_id: Class of each image.
        count: How many to pick.

    Returns:
        Places of the picked images, first to last.
    """
    most = -(-count // max(1, len(set(class_id.tolist()))))
    taken: Counter[str] = Counter()
    picked: list[int] = []
    for place in np.argsort(order, kind="stable").tolist():
        if len(picked) == count:
            break
        if taken[class_id[place]] < most:
            taken[class_id[place]] += 1
            picked.append(place)
    return picked


def _rows(run: Run, scores: Scores, places: list[int]) -> dict[str, dict[str, Any]]:
    """Reads whole rows of a few images, from their own shards alone."""
    ids = [scores.image_id[place] for place in places]
    shards = sorted({scores.file[place] for place in places})
    found: dict[str, dict[str, Any]] = {}
    for rows in tables.batches(run, shards, list(_COLUMNS), pc.field("image_id").isin(ids)):
        for row in rows.to_pylist():
            values, shape = row["map"], (row["map_height"], row["map_width"])
            map_hw = None if values is None else np.array(values, np.float32).reshape(shape)
            found[row["image_id"]] = row | {"map_HW": map_hw}
    return found


def _example(row: dict[str, Any], limit: float | None, names: dict[str, str]) -> Example:
    name = names[row["class_id"]]
    try:
        image = read_image(row["uri"])
    except BadImage:
        return Example(row["image_id"], name, row["typicality"], None, None)
    scale = _PIXELS / max(row["scaled_width"], row["scaled_height"])
    size = (round(row["scaled_width"] * scale), round(row["scaled_height"] * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top, width, height = (scale * row[key] for key in ("left", "top", "patch_width", "patch_height"))
    box = (left, top, left + width, top + height)
    photo = pictures.picture(
        pictures.with_box(image, box), f"An image of class {name}, its most typical patch framed", _PIXELS
    )
    if limit is None or row["map_HW"] is None:
        return Example(row["image_id"], name, row["typicality"], photo, None)
    heat = pictures.with_box(pictures.heat(image, row["map_HW"], limit), box)
    return Example(
        row["image_id"],
        name,
        row["typicality"],
        photo,
        pictures.picture(heat, "Its typicality map, the same patch framed", _PIXELS),
    )
