"""Whether the most typical patch of an image is where the object is: chosen patches against true object boxes."""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.report import tables
from ddps_ray.storage import Run

HELD = 0.8
"""A patch holds an object if at least this share of the object's box lies inside it."""

_BOOTSTRAPS = 2000
_SEED = 0
_SIDES = ("left", "top", "right", "bottom")
_COLUMNS = (
    *("image_id", "width", "height", "scaled_width", "scaled_height", "left", "top", "patch_width", "patch_height"),
    *("map_width", "map_height", "map"),
)
_PLACES = {
    "chosen": "most typical patch",
    "random": "random patch",
    "centred": "patch in the centre",
    "lowest": "least typical patch",
}


@dataclass(frozen=True)
class Interval:
    """A mean over images with its 95 % bootstrap confidence interval.

    Attributes:
        mean: The mean.
        low: 2.5th percentile of the bootstrap means.
        high: 97.5th percentile.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Placement:
    """How well one way to place the patch meets the objects.

    Attributes:
        name: `chosen`, `random`, `centred` or `lowest`.
        text: The same in words.
        holds: Share of patches that hold at least `HELD` of their object's box.
        coverage: Mean share of the box's area that lies inside the patch.
        behind: Mean coverage of the chosen patch minus that of this one, of the same image.
    """

    name: str
    text: str
    holds: Interval
    coverage: Interval
    behind: Interval


@dataclass(frozen=True)
class Localisation:
    """The answer to "did it look at the right place?".

    Attributes:
        images: Scored images that have a true box.
        placements: Chosen, random, centred and, if the maps are stored, lowest.
    """

    images: int
    placements: tuple[Placement, ...]

    @property
    def gain(self) -> Interval:
        """Mean coverage of the chosen patch minus that of the random patch of the same image."""
        return next(place.behind for place in self.placements if place.name == "random")

    def describe(self) -> list[str]:
        """Returns the result in lines of plain text, as the command line prints it."""
        lines = [f"true boxes of {self.images:,} images; mean and 95 % confidence interval"]
        for place in self.placements:
            holds = f"holds the object (>= {HELD:.0%} of its box): {place.holds}"
            lines.append(f"{place.text:<20} {holds}; coverage: {place.coverage}")
        for place in self.placements[1:]:
            lines.append(f"coverage, most typical minus {place.text}: {place.behind}")
        return lines


def measure(run: Run, boxes_uri: str) -> Localisation:
    """Compares each scored image's most typical patch with the true box of its object.

    All patches of an image have the size of the chosen one. The random patch is one of the windows that the chosen one
    was the best of, drawn from the image's id; the least typical patch is the worst of them by the stored map.

    Args:
        run: A run whose scoring has finished.
        boxes_uri: CSV with columns image_id, left, top, right, bottom, in pixels of the original image, right and
            bottom exclusive; other columns are ignored, and so are images that are not among the scores.

    Raises:
        UserError: The file cannot be read, a column is missing or no number, a box is empty, an image has two boxes,
            or no scored image has one.
    """
    boxes = read_boxes(boxes_uri)
    where = pc.field("error").is_null() & pc.field("image_id").isin(pa.array(list(boxes), pa.string()))
    ids: list[str] = []
    covered: list[list[float]] = []
    for rows in tables.batches(run, tables.files(run, "scores"), list(_COLUMNS), where):
        for row in _rows(rows):
            ids.append(row["image_id"])
            covered.append(_coverages(row, np.array(boxes[row["image_id"]])))
    if not ids:
        raise UserError(f"{boxes_uri}: none of its image_id is among the scores of {run.uri}")
    return _summarise(np.array(covered)[np.argsort(ids)])


def read_boxes(uri: str) -> dict[str, tuple[float, float, float, float]]:
    """Reads true boxes: image_id to left, top, right, bottom.

    Raises:
        UserError: As in `measure`.
    """
    types = {"image_id": pa.string()} | dict.fromkeys(_SIDES, pa.float64())
    options = csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[])
    try:
        rows = csv.read_csv(io.BytesIO(storage.read_bytes(uri)), convert_options=options)
    except OSError as error:
        raise UserError(f"{uri}: cannot be read: {first_line(error)}") from error
    except (pa.ArrowInvalid, KeyError) as error:
        said = str(error).strip("'").splitlines()[0]
        raise UserError(f"{uri}: boxes need the columns {', '.join(types)}, with numbers for sides: {said}") from error
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for image_id, left, top, right, bottom in zip(*(rows[name].to_pylist() for name in types), strict=True):
        if not (left < right and top < bottom):
            raise UserError(f"{uri}: the box of {image_id} is empty")
        if image_id in boxes:
            raise UserError(f"{uri}: {image_id} has two boxes")
        boxes[image_id] = (left, top, right, bottom)
    return boxes


def window_means(map_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means of all windows of `height`×`width` positions, stride 1; shape (H − height + 1)×(W − width + 1)."""
    sums = np.zeros((map_HW.shape[0] + 1, map_HW.shape[1] + 1))
    sums[1:, 1:] = map_HW.astype(np.float64).cumsum(0).cumsum(1)
    total = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return np.asarray(total / (height * width))


def coverage(patch: np.ndarray, box: np.ndarray) -> float:
    """Share of the box's area that lies inside the patch; both are left, top, right, bottom."""
    size = np.minimum(patch[2:], box[2:]) - np.maximum(patch[:2], box[:2])
    return float(size.clip(0).prod() / (box[2:] - box[:2]).prod())


def _rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as mappings, the map as an array instead of a list of Python numbers."""
    plain = rows.drop_columns(["map"]).to_pylist()
    return [row | {"map": rows["map"][i].values} for i, row in enumerate(plain)]


def _coverages(row: dict[str, Any], box: np.ndarray) -> list[float]:
    """Coverage of one image's box by the patch of each placement, in the order of `_PLACES`; NaN without a map."""
    ratio = np.array([row["scaled_width"] / row["width"], row["scaled_height"] / row["height"]])
    box = box * np.tile(ratio, 2)
    size = np.array([row["patch_width"], row["patch_height"]])
    pixels = np.array([row["scaled_width"] / row["map_width"], row["scaled_height"] / row["map_height"]])
    cells = np.maximum(1, np.rint(size / pixels)).astype(int)
    places = np.array([row["map_width"], row["map_height"]]) - cells + 1  # how many windows, across and down
    corners = [
        np.array([row["left"], row["top"]]),
        _random_window(row["image_id"], places) * pixels,
        (np.array([row["scaled_width"], row["scaled_height"]]) - size) / 2,
    ]
    if row["map"] is not None:
        map_HW = row["map"].to_numpy(zero_copy_only=False).reshape(row["map_height"], row["map_width"])
        lowest = int(window_means(map_HW, cells[1], cells[0]).argmin())
        corners.append(np.array([lowest % places[0], lowest // places[0]]) * pixels)
    found = [coverage(np.concatenate([corner, corner + size]), box) for corner in corners]
    return found + [np.nan] * (len(_PLACES) - len(found))


def _random_window(image_id: str, places: np.ndarray) -> np.ndarray:
    """Column and row of a window drawn evenly from `places[0]`×`places[1]`, always the same for an image."""
    drawn = int.from_bytes(hashlib.sha256(f"{_SEED}/{image_id}".encode()).digest()[:8])
    across, down = (int(count) for count in places)
    return np.array([drawn % across, drawn // across % down])


def _summarise(covered: np.ndarray) -> Localisation:
    """Means and intervals of coverages of shape images×placements; the images are in the order of their ids."""
    measures = np.hstack([covered >= HELD, covered, covered[:, :1] - covered])
    intervals = [Interval(*map(float, three)) for three in zip(measures.mean(0), *_bootstrap(measures), strict=True)]
    count = len(_PLACES)
    placements = [Placement(name, text, *intervals[i::count]) for i, (name, text) in enumerate(_PLACES.items())]
    known = [place for place in placements if not np.isnan(place.coverage.mean)]
    return Localisation(len(covered), tuple(known))


def _bootstrap(measures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5th and 97.5th percentile of column means, each over as many images drawn with replacement."""
    rng = np.random.default_rng(_SEED)
    count = len(measures)
    drawn = np.array(
        [np.bincount(rng.integers(count, size=count), minlength=count) @ measures / count for _ in range(_BOOTSTRAPS)]
    )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high
