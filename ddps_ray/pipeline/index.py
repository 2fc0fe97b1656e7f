"""Stage `index`: which images there are, of which classes, in which splits."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import ray

from ddps_ray import manifest, storage
from ddps_ray.config import Data, Recipe
from ddps_ray.console import say
from ddps_ray.pipeline import cluster
from ddps_ray.sources import classes, imagefolder
from ddps_ray.storage import Run

STAGE = "index"


def run(recipe: Recipe) -> None:
    """Lists the recipe's data set into `manifest/`: one Ray task does it, and only counts come back.

    Raises:
        UserError: The data set is not as the recipe says; then nothing is written.
    """
    target = Run(recipe.run_dir)
    class_names = classes.read(recipe.data.classes) if recipe.data.classes else None
    settings = _settings(recipe.data, class_names)
    splits = _splits(settings)
    say(f"index: listing {' and '.join(splits)} in {settings['root']}")
    done = target.summary(STAGE)
    if done is not None and target.claim(STAGE, settings):
        say(f"index: already finished: {_in_words(done, splits)}")
        return
    cluster.connect(recipe)
    summary = ray.get(_index.remote(target.uri, settings, class_names))
    target.finish(STAGE, summary)
    for text in summary["ambiguous"]:
        say(f"index: warning: several classes are called {text!r}; data.classes can name them apart")
    say(f"index: {_in_words(summary, splits)} → {target.path(manifest.FOLDER)}")


@ray.remote
def _index(run_dir: str, settings: dict[str, Any], class_names: dict[str, str] | None) -> dict[str, Any]:
    listing = imagefolder.list_images(settings["root"], _splits(settings), class_names)
    target = Run(run_dir)
    # Only now, so that a mistake in the data or its path does not bind the run directory to wrong settings.
    target.claim(STAGE, settings)
    storage.remove(target.path(manifest.FOLDER))  # of an attempt that was cut off
    for split, rows in listing.splits.items():
        manifest.write(target, split, rows)
    splits = {split: rows.num_rows for split, rows in listing.splits.items()}
    return {
        "images": sum(splits.values()),
        "classes": len(listing.class_texts),
        "splits": splits,
        "skipped": listing.skipped,
        "ambiguous": classes.ambiguous(listing.class_texts),
        "fingerprint": _fingerprint(listing.splits.values()),
    }


def _settings(data: Data, class_names: dict[str, str] | None) -> dict[str, Any]:
    """The recipe's section, with the names themselves in place of their file: what they say counts, not where."""
    named = (
        None if class_names is None else hashlib.sha256(json.dumps(class_names, sort_keys=True).encode()).hexdigest()
    )
    return data.model_dump() | {"root": storage.absolute(data.root), "classes": named}


def _splits(settings: dict[str, Any]) -> list[str]:
    return [split for split in (settings["train"], settings["val"]) if split]


def _fingerprint(tables: Iterable[pa.Table]) -> str:
    """Digest of the data set as listed, the same wherever it lies."""
    digest = hashlib.sha256()
    for rows in tables:
        for image_id, text in zip(rows["image_id"].to_pylist(), rows["class_text"].to_pylist(), strict=True):
            digest.update(f"{image_id}\t{text}\n".encode())
    return digest.hexdigest()


def _in_words(summary: dict[str, Any], splits: list[str]) -> str:
    first, *others = splits
    text = f"{summary['splits'][first]} images of {summary['classes']} classes ({first})"
    text += "".join(f", {summary['splits'][split]} ({split})" for split in others)
    return text + (f"; {summary['skipped']} other files skipped" if summary["skipped"] else "")
