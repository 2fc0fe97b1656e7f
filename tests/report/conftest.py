"""A run directory with known content: real scenes, maps that peak at the true boxes, sets, results and bad images."""

import csv
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ddps_ray import config, schemas, score_rows, storage
from ddps_ray.config import Recipe
from ddps_ray.quickstart.objects import BOXES_FILE, SIDE

PATCH = 32
CELL = 4
MEDIAN = 7.0
"""Of the first cluster of the fabricated sets; the others are 1 lower each."""
ODD_CLASS, ODD_NAME = "gem", "<b>x</b>"
LAST = {
    ("ddps", 1): (0.40, 0.42, 0.44),  # 42.0 ± 2.0
    ("random", 1): (0.30, 0.30, 0.36),  # 32.0 ± 3.5
    ("ddps", 2): (0.60, 0.61, 0.65),  # 62.0 ± 2.6
    ("random", 2): (0.50, 0.55, 0.54),  # 53.0 ± 2.6
}
REASONS = ("aspect ratio 9.1 is over 8", "aspect ratio 12.4 is over 8", "empty file")

Boxes = dict[str, tuple[int, int, int, int]]


@pytest.fixture(scope="session")
def true_boxes(scenes: Path) -> Boxes:
    with (scenes / BOXES_FILE).open() as file:
        rows = csv.DictReader(file)
        return {
            row["image_id"]: (int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])) for row in rows
        }


@pytest.fixture
def make_run(tmp_path: Path, scenes: Path, true_boxes: Boxes) -> Callable[..., Recipe]:
    """Builds a run with the stages that are asked for."""

    def make(*stages: str, **report: Any) -> Recipe:
        recipe = make_recipe(tmp_path / "run", scenes, report)
        build(recipe, true_boxes, stages)
        return recipe

    return make


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, scenes: Path, true_boxes: Boxes) -> Recipe:
    """A run in which every stage has finished, with true boxes; tests may write its report and nothing else."""
    recipe = make_recipe(tmp_path_factory.mktemp("whole") / "run", scenes, {"boxes": str(scenes / BOXES_FILE)})
    build(recipe, true_boxes, ("score", "distill", "evaluate", "quarantine"))
    return recipe


def make_recipe(run_dir: Path, scenes: Path, report: dict[str, Any]) -> Recipe:
    return config.parse(
        {
            "run_dir": str(run_dir),
            "data": {"root": str(scenes)},
            "model": {"path": "quickstart"},
            "score": {"size": SIDE, "patch": PATCH},
            "distill": {"sets": {name: {"selector": name, "ipc": [1, 2]} for name in ("ddps", "random")}},
            "report": report,
        },
        "test",
    )


def build(recipe: Recipe, boxes: Boxes, stages: Sequence[str]) -> None:
    """Writes the files of the given stages, among `score`, `distill`, `evaluate` and `quarantine`."""
    train = {image_id: box for image_id, box in boxes.items() if image_id.startswith("train/")}
    _write(recipe, "run.json", None, _record(recipe, stages))
    _write(recipe, "manifest/0.parquet", schemas.MANIFEST, [_manifest(recipe, image_id) for image_id in train])
    rows = [_score(recipe, image_id, box) for image_id, box in train.items()]
    if "score" in stages:
        rows[0] |= {name: None for name in rows[0] if name not in ("image_id", "uri", "class_id", "label")}
        rows[0] |= {"error": REASONS[0]}
        for shard in range(3):
            _write(recipe, f"scores/{shard}.parquet", schemas.scores(8), rows[shard::3])
    if "quarantine" in stages:
        bad = [
            {"image_id": f"train/bad/{i}.png", "uri": "u", "stage": "score", "reason": reason}
            for i, reason in enumerate(REASONS)
        ]
        _write(recipe, "quarantine/0.parquet", schemas.QUARANTINE, bad)
    if "distill" in stages:
        for name, each in recipe.distill.sets.items():
            for ipc in each.ipc:
                _distil(recipe, name, ipc, rows[1:])
    if "evaluate" in stages:
        _write(recipe, "evaluation/0.parquet", schemas.EVALUATION, evaluation())


def evaluation() -> list[dict[str, Any]]:
    return [
        {
            "set_name": name,
            "selector": name,
            "ipc": ipc,
            "teacher": "resnet18",
            "student": "convnet3",
            "seed": seed,
            "images": 10 * ipc,
            "epochs": 300,
            "accuracy_last": last,
            "accuracy_best": last + 0.01,
            "best_epoch": 250,
            "accuracy_teacher": 0.95,
            "settings": '{"classes": 10}',
            "class_digest": "all",
            "protocol": "rded",
            "seconds": 60.0,
            "memory": 10**9,
            "set_digest": f"{name}-{ipc}",
            "set_bytes": 10_000 * ipc,
            "parts": 1,
            "dtype": "float32",
            "label_bytes": None,
        }
        for (name, ipc), values in LAST.items()
        for seed, last in enumerate(values)
    ]


def synthetic_map(image_id: str, box: tuple[int, int, int, int]) -> np.ndarray:
    """T at each latent position: noise everywhere, and a bump at the object, or in one of eight images elsewhere."""
    rng = np.random.default_rng(list(hashlib.sha256(image_id.encode()).digest()))
    cells = SIDE // CELL
    x, y = ((box[i] + box[i + 2]) / 2 / CELL - 0.5 for i in (0, 1))
    if rng.random() < 0.125:
        x, y = rng.uniform(2, cells - 2, 2)
    rows_HW, columns_HW = np.mgrid[:cells, :cells]
    bump_HW = np.exp(-((columns_HW - x) ** 2 + (rows_HW - y) ** 2) / 12)
    values = rng.uniform(0.03, 0.12) * bump_HW + 0.012 * rng.standard_normal((cells, cells)) - 0.01
    return np.asarray(values, np.float16)


def best_window(map_HW: np.ndarray, cells: int, worst: bool = False) -> tuple[int, int, float]:
    """Row, column and mean of the best (or worst) window, by trying them all."""
    found: list[tuple[float, int, int]] = []
    for row in range(map_HW.shape[0] - cells + 1):
        for column in range(map_HW.shape[1] - cells + 1):
            mean = float(map_HW[row : row + cells, column : column + cells].astype(np.float64).mean())
            found.append((mean if worst else -mean, row, column))
    value, row, column = min(found)
    return row, column, value if worst else -value


def _record(recipe: Recipe, stages: Sequence[str]) -> dict[str, Any]:
    times = {"begun": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T11:02:03+00:00"}
    done: dict[str, Any] = {
        stage: times | {"settings": {}, "summary": {"images": 1190}} for stage in ("index", *stages)
    }
    if done.pop("distill", None):
        for name, each in recipe.distill.sets.items():
            for ipc in each.ipc:
                made = {"settings": {"selector": each.selector}, "summary": {"images": 10 * ipc}}
                done[f"distill/{name}/ipc={ipc}"] = times | made
    return {"stages": done, "versions": {"ddps_ray": "0.1.0", "torch": "2.14.1"}}


def _manifest(recipe: Recipe, image_id: str) -> dict[str, Any]:
    split, class_id, _ = image_id.split("/")
    text = ODD_NAME if class_id == ODD_CLASS else class_id
    uri = storage.join(recipe.data.root, image_id)
    own = {"image_id": image_id, "uri": uri, "class_id": class_id, "class_text": text}
    return own | {"label": _label(recipe, class_id), "split": split, "wnid": None}


def _label(recipe: Recipe, class_id: str) -> int:
    return sorted(path.name for path in (Path(recipe.data.root) / "train").iterdir()).index(class_id)


def _score(recipe: Recipe, image_id: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    manifest = _manifest(recipe, image_id)
    map_HW, row, column, mean = _map_and_patch(image_id, box)
    return score_rows.of(
        manifest,
        **dict.fromkeys(("width", "height", "scaled_width", "scaled_height"), SIDE),
        **dict.fromkeys(("patch_width", "patch_height"), PATCH),
        **dict.fromkeys(("map_width", "map_height"), SIDE // CELL),
        left=column * CELL,
        top=row * CELL,
        typicality=mean,
        typicality_image=float(map_HW.mean()),
        map=map_HW.ravel(),
        dift=np.zeros(8, np.float16),
    )


@functools.cache
def _map_and_patch(image_id: str, box: tuple[int, int, int, int]) -> tuple[np.ndarray, int, int, float]:
    map_HW = synthetic_map(image_id, box)
    return map_HW, *best_window(map_HW, PATCH // CELL)


def _distil(recipe: Recipe, name: str, ipc: int, rows: list[dict[str, Any]]) -> None:
    """A set of mosaics, or of single patches above IPC 10, from a class's rows in order (ddps: by typicality)."""
    slots = 4 if ipc <= recipe.distill.mosaic_up_to else 1
    metadata: list[dict[str, Any]] = []
    for class_id in sorted({row["class_id"] for row in rows}):
        own = [row for row in rows if row["class_id"] == class_id]
        if name == "ddps":
            own.sort(key=lambda row: -float(row["typicality"]))
        own = (own * (slots * ipc // len(own) + 1))[: slots * ipc]
        for i in range(ipc):
            file = f"train/{class_id}/{i:05d}.png"
            patches = own[slots * i : slots * i + slots]
            _mosaic(recipe, f"distilled/{name}/ipc={ipc}/{file}", patches, 2 if slots == 4 else 1)
            for slot, row in enumerate(patches):
                place = slots * i + slot
                metadata.append(
                    {key: row[key] for key in ("image_id", "class_id", "label", "left", "top", "typicality")}
                    | {"file": file, "slot": slot, "width": PATCH, "height": PATCH, "reason": "test"}
                    | {"scaled_width": SIDE, "scaled_height": SIDE}
                    | (
                        {"cluster": place // 4, "cluster_typicality": MEDIAN - place // 4, "rank": place % 4}
                        if name == "ddps"
                        else {"cluster": None, "cluster_typicality": None, "rank": None}
                    )
                )
    _write(recipe, f"distilled/{name}/ipc={ipc}/metadata.parquet", schemas.DISTILLED, metadata)


def _mosaic(recipe: Recipe, path: str, patches: list[dict[str, Any]], across: int) -> None:
    side = SIDE // across
    image = Image.new("RGB", (SIDE, SIDE))
    for slot, row in enumerate(patches):
        box = (row["left"], row["top"], row["left"] + PATCH, row["top"] + PATCH)
        patch = Image.open(row["uri"]).crop(box).resize((side, side))
        image.paste(patch, (slot % across * side, slot // across * side))
    target = Path(recipe.run_dir) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target)


def _write(recipe: Recipe, path: str, schema: pa.Schema | None, value: Any) -> None:
    uri = storage.join(recipe.run_dir, path)
    if schema is None:
        storage.write_json(uri, value)
    else:
        storage.write_table(uri, schemas.table({name: [row[name] for row in value] for name in schema.names}, schema))
