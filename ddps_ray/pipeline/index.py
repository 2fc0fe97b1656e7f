"""Stage `index`: which images there are, of which classes, in which splits."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import ray

from ddps_ray import manifest, storage
from ddps_ray.config import Data, Recipe
from ddps_ray.console import say
from ddps_ray.errors import UserError
from ddps_ray.inspection.beat import Beat
from ddps_ray.pipeline import cluster
from ddps_ray.sources import classes, folders, layouts, locators, subset
from ddps_ray.sources.listing import BOXES_FILE, PLAIN, Listing, Options
from ddps_ray.sources.tables import Table
from ddps_ray.storage import Run

STAGE = "index"
_BATCH = 65_536


def run(recipe: Recipe, refresh: bool = False) -> None:
    """Lists the recipe's data set into `manifest/`: one Ray task does it, and only counts come back.

    Args:
        recipe: The settings.
        refresh: List a data set again that has been listed, and take in the images that are new.

    Raises:
        UserError: The data set is not as the recipe says, or no longer has what it had; then nothing is written.
    """
    target = Run(recipe.run_dir)
    class_names = classes.read(recipe.data.classes) if recipe.data.classes else None
    settings = _settings(recipe.data, class_names, target)
    splits = _splits(settings)
    say(f"index: listing {' and '.join(splits)} in {settings['root']}")
    done = target.summary(STAGE)
    if done is not None and target.claim(STAGE, settings) and not refresh and not manifest.missing(target):
        say(f"index: already finished: {_in_words(done, splits)}")
        return
    beat = Beat.read(target)
    if done is not None and beat is not None and beat.alive():
        raise UserError(f"a job scores {target.uri} by the index that is there: wait for its end, or stop it")
    cluster.connect(recipe)
    options = Options(recipe.data.class_folders, recipe.data.image_column, recipe.data.label_column)
    summary, notes = ray.get(_index.remote(target.uri, settings, class_names, recipe.data.ground_truth, options))
    for note in notes:
        say(f"index: {note}")
    if done is not None and "files" not in summary:
        manifest.prune(target)
        say(f"index: nothing new: {_in_words(done, splits)}")
        return
    # From here on readers take the new files; the old ones are no longer theirs, deleted or not.
    target.finish(STAGE, summary)
    manifest.prune(target)
    for warning in _warnings(summary):
        say(f"index: warning: {warning}")
    more = summary["images"] - done["images"] if done is not None else 0
    grown = f", {more} more than before" if more else ""
    where = f"{target.path(manifest.FOLDER)} (layout {summary['layout']})"
    say(f"index: {_in_words(summary, splits)}{grown} → {where}")


def _warnings(summary: dict[str, Any]) -> Iterator[str]:
    """What is to be said of the names of the classes, which go into the prompts."""
    for text in summary["ambiguous"]:
        yield f"several classes are called {text!r}; data.classes can name them apart"
    if count := summary["nameless"]["classes"]:
        more = f" and {count - 1} more classes" if count > 1 else ""
        yield f"{summary['nameless']['first']!r}{more}: no name that a prompt could use; data.classes can give one"


@ray.remote
def _index(
    run_dir: str, settings: dict[str, Any], class_names: Table | None, ground_truth: str | None, options: Options
) -> tuple[dict[str, Any], list[str]]:
    """Lists and writes; returns the stage's figures, and what the user should know."""
    target, splits = Run(run_dir), _splits(settings)
    layout = layouts.find(settings["root"], splits, settings["layout"])
    listing = layouts.list_images(layout, settings["root"], splits, class_names, ground_truth, options)
    tables, notes = _subset(listing.splits, settings)
    notes = [*listing.notes, *notes]
    nameless = classes.nameless(listing.class_texts.values())
    summary = {
        "images": sum(rows.num_rows for rows in tables.values()),
        "classes": len(listing.class_texts),
        "splits": {split: rows.num_rows for split, rows in tables.items()},
        "skipped": listing.skipped,
        "ambiguous": classes.ambiguous(listing.class_texts),
        "nameless": {"classes": len(nameless), "first": next(iter(nameless), None)},
        "fingerprint": _fingerprint(tables.values()),
        "layout": layout,
    }
    done = target.summary(STAGE)
    if done is not None and not _is_new(target, tables, done, summary["fingerprint"], settings):
        return summary, notes
    # Only now, so that a mistake in the data or its path does not bind the run directory to wrong settings.
    target.claim(STAGE, settings | {"layout": layout})
    return summary | {"files": _write(target, tables, listing, fresh=done is None)}, notes


def _write(target: Run, tables: dict[str, pa.Table], listing: Listing, fresh: bool) -> list[str]:
    """Writes the manifest beside the one that is there, unless that is of an attempt that was cut off."""
    if fresh:
        storage.remove(target.path(manifest.FOLDER))
    else:
        manifest.prune(target)
    last = max((_number(path) for path in storage.list_files(target.path(manifest.FOLDER))), default=-1)
    names = [name for split, rows in tables.items() for name in manifest.write(target, split, rows, first=last + 1)]
    if listing.boxes is not None:
        sink = io.BytesIO()
        csv.write_csv(listing.boxes, sink)
        storage.write_bytes(target.path(BOXES_FILE), sink.getvalue())
    return names


def _number(file: Any) -> int:
    digits = file.base_name.removesuffix(".parquet").rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def _is_new(
    target: Run, tables: dict[str, pa.Table], done: dict[str, Any], fingerprint: str, settings: dict[str, Any]
) -> bool:
    """Says whether a listing is to be written beside the one that is there: it has more images, or that has lost files.

    Raises:
        UserError: What was listed is no longer there, or another; or it cannot be known.
    """
    same = done["fingerprint"] == fingerprint
    if gone := manifest.missing(target):
        if not same:
            where = target.path(manifest.FOLDER, gone[0])
            raise UserError(f"{where} is missing, and the data set is not as it was: use another run_dir")
        return True
    _check_grown(target, tables, settings["per_class"] is not None)
    return not same


def _check_grown(target: Run, tables: dict[str, pa.Table], per_class: bool) -> None:
    """Raises UserError where a row of the manifest is not in the new listing, or is another: scores would be wrong."""
    columns = ["image_id", "class_id", "class_text", "label", "uri"]
    for split, rows in tables.items():
        old = manifest.dataset(target).to_table(columns=columns, filter=pc.field("split") == split)
        place = pc.index_in(old["image_id"], value_set=rows["image_id"].combine_chunks())
        if place.null_count:
            gone = old["image_id"].filter(pc.is_null(place))[0].as_py()
            drawn = ", or data.per_class draws other images from one that has grown" if per_class else ""
            raise UserError(f"data: {gone} is no longer in the data set{drawn}: use another run_dir")
        new = rows.take(place.combine_chunks() if isinstance(place, pa.ChunkedArray) else place)
        for column in columns[1:]:
            changed = pc.not_equal(old[column], new[column])
            for row in pc.indices_nonzero(changed).to_pylist():
                was, now = old[column][row].as_py(), new[column][row].as_py()
                if column == "uri" and locators.same(was, now):
                    continue
                name = old["image_id"][row].as_py()
                raise UserError(f"data: the {column} of {name} was {was!r}, is now {now!r}: use another run_dir")


def _subset(tables: dict[str, pa.Table], settings: dict[str, Any]) -> tuple[dict[str, pa.Table], list[str]]:
    """Takes `per_class` images of each class of the training split, if that is set."""
    wanted, split = settings["per_class"], settings["train"]
    if wanted is None:
        return tables, []
    counts = pc.value_counts(tables[split]["class_id"].combine_chunks()).field("counts")
    short = pc.sum(pc.less(counts, wanted)).as_py()
    notes = [f"warning: {short} classes have fewer than {wanted} images"] if short else []
    return tables | {split: subset.choose(tables[split], wanted, settings["seed"])}, notes


def _settings(data: Data, class_names: Table | None, target: Run) -> dict[str, Any]:
    """The recipe's section, with what the files say in place of their names: that counts, not where they are."""
    settings = data.model_dump() | {
        "root": storage.absolute(data.root),
        "classes": None if class_names is None else _digest(_said(class_names)),
        "ground_truth": None
        if data.ground_truth is None
        else _digest(folders.read_text(data.ground_truth, "data.ground_truth")),
        "seed": data.seed if data.per_class is not None else None,
        # As runs have it that are older than the setting.
        "class_folders": None if data.class_folders == PLAIN.class_folders else data.class_folders,
    }
    if data.layout == layouts.AUTO and target.summary(STAGE) is not None:
        settings["layout"] = target.record()["stages"][STAGE]["settings"].get("layout")
    return settings


def _said(table: Table) -> str:
    """All that a table says."""
    pairs = json.dumps(list(table.items()))
    return pairs + json.dumps(dict(table.wnids)) if table.wnids else pairs


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _splits(settings: dict[str, Any]) -> list[str]:
    return [split for split in (settings["train"], settings["val"]) if split]


def _fingerprint(tables: Iterable[pa.Table]) -> str:
    """Digest of the data set as listed, the same wherever it lies."""
    digest = hashlib.sha256()
    for rows in tables:
        for batch in rows.select(["image_id", "class_text"]).to_batches(_BATCH):
            pairs = zip(batch["image_id"].to_pylist(), batch["class_text"].to_pylist(), strict=True)
            digest.update("".join(f"{image_id}\t{text}\n" for image_id, text in pairs).encode())
    return digest.hexdigest()


def _in_words(summary: dict[str, Any], splits: list[str]) -> str:
    first, *others = splits
    text = f"{summary['splits'][first]} images of {summary['classes']} classes ({first})"
    text += "".join(f", {summary['splits'][split]} ({split})" for split in others)
    return text + (f"; {summary['skipped']} other files skipped" if summary["skipped"] else "")
