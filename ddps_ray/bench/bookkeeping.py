"""`ddps bench bookkeeping`: what a data set of ImageNet's size costs besides the diffusion model itself."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from ddps_ray import config, manifest, schemas, score_rows, shards, storage
from ddps_ray.bench.measure import Measured, folder_of, measure
from ddps_ray.console import say
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.inspection import verify
from ddps_ray.storage import Run

_CLASSES = 1000
_ROWS_PER_SHARD = 4096
_DONE = 0.99


def run(folder: str, images: int) -> None:
    """Makes a data set, scores most of it by a constant, and measures index, resume, verify and status.

    Prints a line a step: seconds, and peak memory of the command's own process and of the workers together.

    Args:
        folder: Folder to make; it is deleted again.
        images: Images of the data set, hard links to one small photograph a class.

    Raises:
        UserError: The folder is there already, or cannot be made.
    """
    with folder_of(folder) as place:
        recipe = _recipe(place)
        _draw(place / "data", images)
        say(f"bench: {images} images of {min(_CLASSES, images)} classes in {place}")
        _say("index", measure(["-m", "ddps_ray.cli", "index", "--config", str(recipe)]))
        done = _pretend(recipe)
        said = f"score, {images - done} of {images} left"
        _say(said, measure(["-m", "ddps_ray.pipeline.constant", str(recipe)]))
        _say("verify", measure(["-m", "ddps_ray.cli", "verify", str(place / "run")], (verify.SOUND,)))
        _say("status", measure(["-m", "ddps_ray.cli", "status", str(place / "run")]))


def _recipe(place: Path) -> Path:
    values = {
        "run_dir": str(place / "run"),
        "data": {"root": str(place / "data"), "val": None},
        "model": {"path": checkpoints.BUNDLED},
        "score": {
            "size": 64,
            "patch": 32,
            "rows_per_shard": _ROWS_PER_SHARD,
            "batch": 64,
            "judge": "skip",
            "prompt": "{}",  # so many names are longer to the small text encoder than words are
            "null_prompt": "",
        },
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(values))
    return place / "recipe.yaml"


def _draw(root: Path, images: int) -> None:
    for number in range(min(_CLASSES, images)):
        folder = root / "train" / f"c{number:03d}"
        folder.mkdir(parents=True)
        first = folder / "0000000.jpg"
        colour = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colour).resize((32, 32)).save(buffer, "JPEG")
        first.write_bytes(buffer.getvalue())
        for place in range(1, len(range(number, images, _CLASSES))):
            (folder / f"{place:07d}.jpg").hardlink_to(first)


def _pretend(recipe: Path) -> int:
    """Writes shards for most of the manifest, as if they had been scored; returns their rows."""
    run = Run(config.load(recipe).run_dir)
    model = config.load(recipe).model
    geometry = checkpoints.geometry(checkpoints.locate(model, ""))
    schema = schemas.scores(geometry.feature_sizes[config.load(recipe).score.dift_block])
    listed = manifest.dataset(run).to_table()
    done = int(_DONE * listed.num_rows)
    for number, start in enumerate(range(0, done, _ROWS_PER_SHARD)):
        rows = listed.slice(start, min(_ROWS_PER_SHARD, done - start))
        shard = _scored(rows, schema, 64 // geometry.factor)
        name = f"pretended_{number:06d}-0.parquet"
        storage.write_table(run.path(shards.FOLDER, name), shard, shards.ROWS_PER_GROUP)
    return done


def _scored(rows: pa.Table, schema: pa.Schema, side: int) -> pa.Table:
    """Score rows of manifest rows, all with the same measurements."""
    row = score_rows.make(
        **dict.fromkeys(("width", "height", "scaled_width", "scaled_height", "map_width", "map_height"), side),
        **{"left": 0, "top": 0, "patch_width": side, "patch_height": side, "typicality": 0.0, "typicality_image": 0.0},
        map=np.zeros(side * side, np.float16),
        dift=np.ones(schema.field("dift").type.list_size, np.float16),
    )
    columns = [
        rows[field.name]
        if field.name in rows.column_names
        else pa.repeat(pa.scalar(row[field.name], field.type), len(rows))
        for field in schema
    ]
    return schemas.check(pa.table(columns, schema), schema)


def _say(step: str, measured: Measured) -> None:
    own, others = (f"{size / 1e6:.0f} MB" for size in (measured.own, measured.others))
    spilled = [line for line in measured.output.splitlines() if "pill" in line]
    said = f"{step.ljust(40)} {measured.seconds:7.1f} s  {own.rjust(8)} itself  {others.rjust(8)} workers"
    say("  ".join([said, *spilled]))
