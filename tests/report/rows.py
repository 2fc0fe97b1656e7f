"""Rows of evaluations and failures, made by hand, and runs that have them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddps_ray import schemas, storage
from ddps_ray.storage import Run

Row = dict[str, Any]


def row(**changes: Any) -> Row:
    """A row of a set called `ddps`, with these columns changed; the selector is called as the set."""
    made = {
        "set_name": "ddps",
        "ipc": 1,
        "teacher": "resnet18",
        "student": "convnet3",
        "seed": 0,
        "images": 10,
        "epochs": 300,
        "accuracy_last": 0.5,
        "accuracy_best": 0.6,
        "best_epoch": 250,
        "accuracy_teacher": 0.9,
        "settings": '{"classes": 10, "batch": 10}',
        "class_digest": "ten",
        "protocol": "rded",
        "seconds": 60.0,
        "memory": 10**9,
        "set_digest": None,
        "set_bytes": None,
        "parts": None,
        "dtype": None,
    }
    return made | {"selector": changes.get("set_name", "ddps")} | changes


def seeds(last: Mapping[int, float], **changes: Any) -> list[Row]:
    """A row for each seed, with its accuracy; the best epoch is a point better."""
    return [
        row(**{"seed": seed, "accuracy_last": value, "accuracy_best": value + 0.01} | changes)
        for seed, value in last.items()
    ]


def failure(**changes: Any) -> Row:
    """A row of a failed student, with these columns changed."""
    keys = {name: row()[name] for name in schemas.FAILURE.names if name != "reason"}
    return keys | {"reason": "out of memory"} | changes


def run_with(folder: Path, *rows: Row, failures: list[Row] | None = None) -> Run:
    """A run with these rows, a file each."""
    for number, each in enumerate(rows):
        _write(folder / f"evaluation/{number:03d}.parquet", each, schemas.EVALUATION)
    for number, each in enumerate(failures or []):
        _write(folder / f"evaluation/failed/{number:03d}.parquet", each, schemas.FAILURE)
    return Run(str(folder))


def _write(path: Path, each: Row, schema: pa.Schema) -> None:
    storage.write_table(str(path), schemas.table({name: [value] for name, value in each.items()}, schema))
