"""`ddps quickstart`: draws the data, then runs the same stages as any other data set."""

import json
import shutil
import time
from importlib import resources
from pathlib import Path

from ddps_ray import config, uris
from ddps_ray.console import duration, say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import every
from ddps_ray.quickstart.objects import BOXES_FILE, write_image_folder
from ddps_ray.report.localisation import measure
from ddps_ray.storage import Run

PER_CLASS = {"train": 100, "val": 40}
"""Images of each class that are drawn, by split."""

_SEED = 0
_SHORT = ["evaluate.ipc=[1]", "evaluate.seeds=[0,1,2]"]


def run(out: str, full: bool, overrides: list[str]) -> None:
    """Draws the data if it is not there yet, runs all stages on it, and says where the page is.

    Args:
        out: Folder for data and run.
        full: Evaluate every IPC and seed, instead of as little as shows that it works.
        overrides: `section.key=value` strings for the recipe.

    Raises:
        UserError: As each stage does.
    """
    begun = time.monotonic()
    if uris.is_uri(out):
        raise UserError(f"--out: {out}: the quickstart draws its data into a folder of a disk: give a path")
    folder = Path(config.lasting(out))
    recipe_file = resources.files("ddps_ray.quickstart") / "recipe.yaml"
    places = [
        f"run_dir={json.dumps(str(folder / 'run'))}",
        f"data.root={json.dumps(str(folder / 'data'))}",
        f"report.boxes={json.dumps(str(folder / 'data' / BOXES_FILE))}",
    ]
    with resources.as_file(recipe_file) as file:
        recipe = config.load(file, [*places, *([] if full else _SHORT), *overrides])
    _draw(folder / "data")
    every.run(recipe)
    for line in measure(Run(recipe.run_dir), str(recipe.report.boxes)).describe():
        say(f"quickstart: {line}")
    say(f"quickstart: done in {duration(time.monotonic() - begun)}; open {folder / 'run' / 'report' / 'index.html'}")


def _draw(root: Path) -> None:
    """Draws beside the target and renames, so that a folder that is there is complete."""
    if root.exists():
        say(f"quickstart: the data is already in {root}")
        return
    say(f"quickstart: drawing {sum(PER_CLASS.values())} images of each of ten classes → {root}")
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for _ in write_image_folder(part, PER_CLASS, _SEED):
        pass
    part.rename(root)
