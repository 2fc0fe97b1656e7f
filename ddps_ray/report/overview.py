"""The head of the page: the run in one sentence, its key numbers, its stages and its main settings."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ddps_ray.config import Recipe
from ddps_ray.report import accuracy
from ddps_ray.report.accuracy import Accuracy, Spread
from ddps_ray.report.charts import percent
from ddps_ray.report.distilled import DistilledSet
from ddps_ray.report.tables import Scores
from ddps_ray.storage import Run
from ddps_ray.students import teachers


def sentence(
    recipe: Recipe, scores: Scores, sets: list[DistilledSet], results: list[Accuracy], quarantined: int
) -> str:
    """The run in words, with its key numbers."""
    classes = len(set(scores.class_id.tolist()))
    parts = [
        f"The diffusion model “{recipe.model.path}” judged {_count(len(scores.image_id), 'image')} "
        f"of {_count(classes, 'class', 'classes')}"
        f"; {_count(quarantined, 'image') if quarantined else 'none'} had to be set aside."
    ]
    if sets:
        ipcs = " and ".join(", ".join(str(ipc) for ipc in sorted({each.ipc for each in sets})).rsplit(", ", 1))
        images = "image" if ipcs == "1" else "images"
        parts.append(f"From these scores came {_count(len(sets), 'distilled set')}, with {ipcs} {images} per class.")
    if (best := accuracy.best(results)) is not None:
        parts.append(
            f"The best{_of_classes(best, results)}, “{best.set_name}” at {_count(best.ipc, 'image')} per class, "
            f"taught {best.student} to an accuracy of {_percent(best.last)}{_beside(best, results)}; "
            f"{taught_by(recipe, best)}."
        )
    return " ".join(parts)


def taught_by(recipe: Recipe, best: Accuracy) -> str:
    """What its teacher gets right, in words."""
    if not best.has_teacher:
        return "its labels were hard ones, without a teacher"
    named = f" “{best.teacher}”" if len(recipe.all_teachers) > 1 else ""
    return f"the teacher{named}, which saw the whole data set, has {percent(best.teacher_accuracy, 1)}"


def _beside(best: Accuracy, results: list[Accuracy]) -> str:
    """What random patches gave under the same terms, in words."""
    same = [each for each in results if each.selector == "random" and each.is_like(best)]
    return f", against {_percent(same[0].last)} with random patches" if same and best.selector != "random" else ""


def _of_classes(best: Accuracy, results: list[Accuracy]) -> str:
    """Of how many classes it is, where there are results on fewer."""
    several = len({each.classes for each in results}) > 1
    return f" on all {best.classes} classes" if several else ""


def tiles(
    scores: Scores, sets: list[DistilledSet], results: list[Accuracy], quarantined: int
) -> list[tuple[str, str, str]]:
    """Key numbers: value, what it counts, and the anchor of its section."""
    tiles = [
        (f"{len(scores.image_id):,}", "images scored", "scores"),
        (f"{len(set(scores.class_id.tolist())):,}", "classes", "scores"),
        (f"{quarantined:,}", "set aside", "quarantine"),
        (f"{len(sets):,}", "distilled sets", "distilled"),
    ]
    if (best := accuracy.best(results)) is not None:
        tiles.append((percent(best.last.mean, 1), f"best accuracy{_of_classes(best, results)}", "accuracy"))
    return tiles


def record(where: Run) -> dict[str, Any]:
    """Stages and versions from `run.json`."""
    made = where.record()
    stages = sorted(made["stages"].items(), key=lambda item: (item[1]["begun"], item[0]))
    return {
        "versions": sorted(made["versions"].items()),
        "stages": [
            {
                "name": name,
                "begun": _time(entry["begun"]),
                "finished": _time(entry["finished"]) if "finished" in entry else "not finished",
                "took": _duration(entry["begun"], entry["finished"]) if "finished" in entry else "",
                "summary": ", ".join(f"{key} {_plain(value)}" for key, value in entry.get("summary", {}).items()),
            }
            for name, entry in stages
        ],
    }


def settings(recipe: Recipe) -> list[tuple[str, str]]:
    """The settings that say most about the run, in words."""
    score, distill, evaluate = recipe.score, recipe.distill, recipe.evaluate
    patch = "the whole image" if score.patch == "full" else f"{score.patch} px"
    return [
        ("Data", recipe.data.root),
        ("Model", f"{recipe.model.path}, {recipe.model.dtype}"),
        ("Shorter edge when scored", f"{score.size} px"),
        ("Patch", patch),
        ("Pairs of noise and time step, N", str(score.pairs)),
        ("Time steps", f"{score.timesteps[0]} to {score.timesteps[1]}"),
        ("Prompt c", f"“{score.prompt}”"),
        ("Prompt ∅", f"“{score.null_prompt}”"),
        ("Clusters a class, M", f"{distill.clusters}, of which the top {distill.top_clusters} give patches"),
        ("Mosaics of four", _mosaics(recipe)),
        ("Students", f"{', '.join(student.arch for student in evaluate.students)}; {_protocols(recipe)}"),
        *_teachers(recipe),
        ("Seed", str(recipe.seed)),
    ]


def _protocols(recipe: Recipe) -> str:
    """How students are trained, in words."""
    cfg = recipe.evaluate
    named = f"protocol{'s' if len(cfg.protocols) > 1 else ''} {', '.join(cfg.protocols)}"
    return named if cfg.epochs is None else f"{named}; {cfg.epochs} epochs"


def _teachers(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Each teacher; none where no student learns from one."""
    if teachers.needed(recipe.evaluate):
        for name, cfg in recipe.all_teachers.items():
            yield f"Teacher {name}".strip(), f"{cfg.model.arch}, weights: {cfg.weights}"


def _mosaics(recipe: Recipe) -> str:
    """Which images are mosaics, in words."""
    usual = "none" if recipe.score.patch == "full" else f"up to IPC {recipe.distill.mosaic_up_to}"
    own = [(name, each.composition) for name, each in recipe.distill.sets.items() if each.composition != "auto"]
    return "; ".join([usual, *(f"{name}: {'all' if how == 'mosaic' else 'none'}" for name, how in own)])


def _percent(accuracy: Spread) -> str:
    return f"{accuracy} %".replace(" ", "\N{NO-BREAK SPACE}")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _time(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")


def _duration(begun: str, finished: str) -> str:
    seconds = round((datetime.fromisoformat(finished) - datetime.fromisoformat(begun)).total_seconds())
    hours, rest = divmod(seconds, 3600)
    parts = [(hours, "h"), (rest // 60, "min"), (rest % 60, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "0 s"


def _plain(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
