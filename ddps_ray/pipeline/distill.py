"""Stage II: distilled sets from the scores, one Ray Data task a class, at any IPC and for any subset of classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

from ddps_ray import storage
from ddps_ray.config import Distill, DistilledSet, Recipe
from ddps_ray.console import Ticker, say
from ddps_ray.errors import UserError
from ddps_ray.pipeline import cluster
from ddps_ray.remedies import lasting_error
from ddps_ray.selection import records, sets
from ddps_ray.selection.budget import Budget, plan
from ddps_ray.selection.candidates import Shards, read_class, shards_by_class
from ddps_ray.selection.sets import METADATA
from ddps_ray.selection.writer import PARTS, merge, write_class
from ddps_ray.storage import Run


@dataclass(frozen=True)
class Target:
    """One set at one IPC: what a finished stage of this name has made.

    Attributes:
        name: Name of the set in the recipe.
        ipc: Images per class.
        stage: Its name in the run's record.
        uri: Its folder.
    """

    name: str
    ipc: int
    stage: str
    uri: str

    def done(self, run: Run) -> bool:
        """Says whether it was finished and is still there."""
        return run.summary(self.stage) is not None and storage.exists(storage.join(self.uri, METADATA))


def run(recipe: Recipe) -> None:
    """Makes every distilled set of the recipe that is not there yet.

    Raises:
        UserError: The images are not scored; a set names an unknown class, or asks for more images than a class has
            (then nothing is written); a set is older than the scores; a scored image cannot be read any more.
    """
    this = Run(recipe.run_dir)
    scores = this.require("score", "score")
    targets = list(_targets(this, recipe))
    todo = [target for target in targets if not target.done(this)]
    shards = shards_by_class(this.path("scores")) if todo else {}
    classes = sets.class_ids(this, recipe) if todo else {}
    for target in todo:
        counts = {class_id: sum(shards.get(class_id, {}).values()) for class_id in classes[target.name]}
        if wrong := sets.too_small(recipe, target.name, target.ipc, counts):
            raise UserError(wrong)
    for target in targets:
        _check_scores(this, target, scores)
    for target in targets:
        _claim(this, recipe, target)
        if target not in todo:
            say(f"{target.stage}: already finished, {_said(this, target)}")
    if not todo:
        return
    cluster.connect(recipe)
    for name in dict.fromkeys(target.name for target in todo):
        same_set = [target for target in todo if target.name == name]
        chosen = {class_id: shards[class_id] for class_id in classes[name]}
        _distil_set(this, recipe, same_set, chosen, scores["digest"])


def _targets(this: Run, recipe: Recipe) -> Iterator[Target]:
    for name, wanted in recipe.distill.sets.items():
        for ipc in dict.fromkeys(wanted.ipc):
            yield Target(name, ipc, *sets.location(this, recipe, name, ipc))


def _claim(this: Run, recipe: Recipe, target: Target) -> None:
    if target.stage in this.record()["stages"]:
        return
    this.claim(target.stage, sets.settings(recipe, target.name, target.ipc))
    if told := next(each.differs for each in records.recorded(this) if each.stage == target.stage):
        say(f"{target.stage}: {told}; it lies beside others of this name")


def _check_scores(this: Run, target: Target, scores: dict[str, Any]) -> None:
    made = this.summary(target.stage)
    if made is not None and made["scores"] != scores["digest"]:
        raise UserError(
            f"{target.stage} was made before more images had scores; name a new set in distill.sets, or another run_dir"
        )


def _distil_set(this: Run, recipe: Recipe, targets: list[Target], shards: Shards, digest: str) -> None:
    settings, name = recipe.distill, targets[0].name
    wanted, ipcs = settings.sets[name], ", ".join(str(target.ipc) for target in targets)
    say(f"distill {name}: {wanted.selector} at ipc {ipcs} from {len(shards)} classes → {this.path('distilled', name)}")
    budgets = {}
    for target in targets:
        storage.remove(target.uri)  # what an interrupted attempt left
        mosaic = sets.is_mosaic(recipe, name, target.ipc)
        budgets[target.uri] = plan(target.ipc, settings.top_clusters, mosaic=mosaic)
    rows = [{"class_id": class_id, "shards": list(counts)} for class_id, counts in shards.items()]
    task = {"run_dir": this.uri, "settings": settings, "wanted": wanted, "budgets": budgets}
    classes = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_distil_class, fn_kwargs=task)
    _watch(name, classes, len(rows))
    merging = [ray.remote(merge).remote(target.uri, list(shards)) for target in targets]
    for target, images in zip(targets, ray.get(merging), strict=True):
        storage.remove(storage.join(target.uri, PARTS))
        made = {"images": images, "classes": len(shards)}
        this.finish(target.stage, made | {"scores": digest})
        say(f"{target.stage}: {_said(this, target)}")


def _distil_class(
    row: dict[str, Any], *, run_dir: str, settings: Distill, wanted: DistilledSet, budgets: dict[str, Budget]
) -> dict[str, Any]:
    """What a task does with a class; it hands back its id, and the reason if it could not be done."""
    problem = ""
    try:
        candidates = read_class(Run(run_dir).path("scores"), row["shards"], row["class_id"])
        write_class(candidates, settings, wanted, budgets)
    except UserError as error:
        problem = str(error)
    except Exception as error:
        if told := lasting_error(error, run_dir):  # a disk: the other classes need it, too
            raise UserError(told) from error
        error.add_note(f"while reading {', '.join(row['shards'])}")  # Arrow does not always name what is damaged
        raise
    return {"class_id": row["class_id"], "problem": problem}


def _watch(name: str, classes: ray.data.Dataset, total: int) -> None:
    ticker, problems = Ticker(), []
    for done, row in enumerate(classes.iter_rows(), start=1):
        if row["problem"]:
            problems.append(row["problem"])
        if ticker.due():
            say(f"distill {name}: {done} of {total} classes")
    if problems:
        more = f" (and {len(problems) - 1} more classes with such an image)" if len(problems) > 1 else ""
        raise UserError(f"{min(problems)}{more}")


def _said(this: Run, target: Target) -> str:
    summary = this.summary(target.stage) or {}
    return f"{summary['images']} images of {summary['classes']} classes in {target.uri}"
