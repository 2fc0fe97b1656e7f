"""Whether the distilled sets of a run are whole: metadata, image files, images a class, patches an image."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from ddps_ray import storage
from ddps_ray.console import say
from ddps_ray.errors import UserError
from ddps_ray.selection import records, sets
from ddps_ray.selection.records import Recorded
from ddps_ray.storage import Run


def check(run: Run) -> list[str]:
    """Says of each finished set that it is whole; returns what is wrong with the others, a line each."""
    wrong = []
    for each in records.recorded(run):
        if not each.finished:
            continue
        if not storage.exists(each.uri):  # as a user may who needs the room
            say(f"verify: {each.stage}: was deleted; `ddps distill` makes it again where the recipe asks for it")
        elif found := list(_wrong(each, run.summary(each.stage) or {})):
            wrong += [f"{each.stage}: {line}" for line in found]
        else:
            say(f"verify: {each.stage}: whole{f'; {each.differs}' if each.differs else ''}")
    return wrong


def _wrong(each: Recorded, summary: Mapping[str, Any]) -> Iterator[str]:
    if not storage.exists(storage.join(each.uri, sets.METADATA)):
        yield f"{each.uri} has no {sets.METADATA}: `ddps distill` makes the set again"
        return
    try:
        rows = sets.read_metadata(each.uri)
    except UserError as error:
        yield str(error)
        return
    patches = Counter(rows["file"].to_pylist())
    yield from _files(each, patches)
    yield from _counts(each, rows, patches)
    found, made = set(rows["class_id"].to_pylist()), summary.get("classes")
    if lost := sorted(set(each.settings.get("classes") or ()) - found):
        yield f"{len(lost)} of its classes are not in {sets.METADATA}, {lost[0]!r} is the first"
    elif made is not None and made != len(found):
        yield f"{len(found)} classes are in {sets.METADATA}, but {made} were made"


def _files(each: Recorded, patches: Counter[str]) -> Iterator[str]:
    top = storage.open_uri(each.uri)[1]
    there = {info.path.removeprefix(f"{top}/") for info in sets.image_files(each.uri) if info.size}
    if lost := sorted(patches.keys() - there):
        yield f"{len(lost)} of {len(patches)} images are not there or empty, {lost[0]} is the first"
    if more := sorted(there - patches.keys()):
        yield f"{len(more)} image files are not in {sets.METADATA}, {more[0]} is the first"


def _counts(each: Recorded, rows: pa.Table, patches: Counter[str]) -> Iterator[str]:
    pairs = rows.group_by(["file", "class_id"], use_threads=False).aggregate([])
    odd = {class_id: count for class_id, count in Counter(pairs["class_id"].to_pylist()).items() if count != each.ipc}
    if odd:
        least = min(odd)
        yield f"{len(odd)} classes have not {each.ipc} images, {least!r} with {odd[least]} is one"
    composition = each.settings.get("composition")  # unknown in a record that tells less
    if composition and (files := [file for file, count in patches.items() if count != sets.PATCHES[composition]]):
        yield f"{len(files)} images are no {composition}, {min(files)} is one"
