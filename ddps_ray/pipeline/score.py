"""Stage I as a Ray Data job: manifest → decode on CPUs → scorer actors → Parquet shards, committed one by one."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from ddps_ray import conclusion, judge, manifest, schemas, shards, storage
from ddps_ray.config import Model, Recipe, Score
from ddps_ray.console import duration, say
from ddps_ray.diffusion import checkpoint as checkpoints
from ddps_ray.diffusion import flops, suitability
from ddps_ray.diffusion.staging import MODEL_FOLDER
from ddps_ray.errors import UserError
from ddps_ray.inspection.beat import Beat
from ddps_ray.pipeline import cluster, manifests, trial
from ddps_ray.pipeline.commits import checkpointed
from ddps_ray.pipeline.loading import load
from ddps_ray.pipeline.progress import Heartbeat, too_many
from ddps_ray.pipeline.scoring import ScoringActor
from ddps_ray.storage import Run
from ddps_ray.verdict import Verdict

STAGE = "score"
_ROWS_PER_TASK = 256
"""Images that are decoded, and then scored, in one task: some 70 MB of pixels at 256 px."""


@dataclass(frozen=True)
class Job:
    """One execution of the stage.

    Attributes:
        recipe: The recipe, with the model's revision pinned.
        run: Run directory.
        commits: URI of the checkpoints that belong to these settings.
        geometry: Shapes of the model.
        rows_per_shard: Images in one committed file.
        actor: Class whose objects turn loaded rows into score rows.
    """

    recipe: Recipe
    run: Run
    commits: str
    geometry: checkpoints.Geometry
    rows_per_shard: int
    actor: type = ScoringActor


def run(recipe: Recipe, retry_failed: bool = False, actor: type = ScoringActor) -> None:
    """Scores every image of the training split that has no score yet.

    Args:
        recipe: The recipe.
        retry_failed: Whether images that failed before are tried again.
        actor: What scores; see `Job`.

    Raises:
        UserError: The model or the settings do not fit, the data set is not indexed, the model is no judge of it, or
            too many images fail.
    """
    run = Run(recipe.run_dir)
    manifest.indexed(run, recipe.data.train)
    indexed = run.require("index", "index")
    if recipe.model.path == checkpoints.PRETRAINED:
        run.require("pretrain", "pretrain")
    asked = recipe.model
    recipe = recipe.model_copy(update={"model": checkpoints.pin(_as_before(run, asked))})
    folder = checkpoints.locate(recipe.model, run.path(MODEL_FOLDER))
    geometry = checkpoints.geometry(folder)
    suitability.check(geometry, recipe.score)
    settings = _settings(recipe, checkpoints.fingerprint(folder))
    begun = any(True for _ in storage.list_files(run.path(shards.FOLDER)))
    if run.claim(STAGE, settings, begun=begun):
        summary = run.require(STAGE, "score")
        again = retry_failed and summary["quarantined"]
        if not again and summary.get("manifest") == indexed["fingerprint"] and _all_there(run, summary):
            say(f"score: already finished: {_described(summary)} in {run.path(shards.FOLDER)}")
            return
    run.note(STAGE, "model", {"path": asked.path, "asked": asked.revision, "commit": recipe.model.revision})
    cluster.connect(recipe)
    texts = _remotely(_texts, run.uri, recipe.data.train)
    for doubt in judge.doubts(folder, recipe.score, texts):
        say(f"score: warning: {doubt}")
    verdict = _judged(recipe, run)
    rows = flops.rows_per_shard(recipe.score, _seconds(recipe, folder, verdict))
    job = Job(recipe, run, run.path("checkpoints", f"{STAGE}-{_key(settings)}"), geometry, rows, actor)
    _score(job, indexed, retry_failed)


def _judged(recipe: Recipe, run: Run) -> Verdict | None:
    """What the check of the judge has found, now or when this stage began before; None where it is skipped.

    Raises:
        UserError: The model is no judge, and the recipe does not say to go on.
    """
    if recipe.score.judge == "skip":
        return None
    noted = run.record()["stages"][STAGE].get("judge")
    verdict = Verdict.from_json(noted) if noted else None
    if verdict is None or not verdict.is_judge:
        say(f"score: trying the judge on {judge.WANTED} images")
        gpus = _gpus(recipe.score)
        verdict = trial.verdict(recipe, gpus, _threads(recipe.score))
        run.note(STAGE, "judge", verdict.as_json())
        say(f"score: {verdict.line()}")
    if not verdict.is_judge:
        if recipe.score.judge == "stop":
            raise UserError(f"{verdict.reason()}. To score all the same: score.judge=warn")
        say(f"score: warning: {verdict.reason()}")
    for doubt in verdict.doubts() if verdict.is_judge else ():
        say(f"score: warning: {doubt}")
    return verdict


def _texts(run_dir: str, split: str) -> dict[str, str]:
    """What the prompt calls each class of a split."""
    rows = manifest.classes(Run(run_dir), split)
    return dict(zip(rows["class_id"].to_pylist(), rows["class_text"].to_pylist(), strict=True))


def _seconds(recipe: Recipe, folder: Path, verdict: Verdict | None) -> float:
    """Time for one image: as measured, if it was on such a device as now; otherwise what is usual."""
    gpu = _gpus(recipe.score) > 0
    if verdict is not None and (verdict.device == "cuda") == gpu:
        return verdict.seconds
    return flops.usual_seconds(flops.flops_per_image(folder, recipe.score, recipe.score.size, recipe.score.size), gpu)


def _score(job: Job, indexed: dict[str, Any], retry_failed: bool) -> None:
    recipe, run = job.recipe, job.run
    total = indexed["splits"][recipe.data.train]
    where = run.path(shards.FOLDER)
    say(f"score: {total} images, N = {recipe.score.pairs}, model {recipe.model.path} → {where}")
    _warn_of_another(run)
    run.reopen(STAGE)
    if retry_failed:
        say(f"score: trying {_remotely(shards.drop_failed, where)} images of the quarantine again")
    _remotely(shards.reconcile, where, job.commits)
    storage.remove(_strikes(run))  # an earlier job's: its images are to be tried as often as any
    with Heartbeat(run, job.actor.__name__, total, recipe.score.max_error_fraction):
        _execute(job)
        summary = _remotely(conclusion.conclude, run.uri, recipe.data.train)
        _remotely(shards.reconcile, where, job.commits)
        if summary["images"] != total:
            raise RuntimeError(f"{summary['images']} of {total} images have a row in {where}")
        reasons = run.path("quarantine", conclusion.QUARANTINE)
        if error := too_many(summary["quarantined"], total, recipe.score.max_error_fraction, reasons):
            raise error
        run.finish(STAGE, summary | {"manifest": indexed["fingerprint"]})
    say(f"score: {_described(summary)} in {where}")


def _as_before(run: Run, model: Model) -> Model:
    """The model at the commit that this stage began with, if the recipe asks for the same: a branch may have moved."""
    known = run.record()["stages"].get(STAGE, {}).get("model", {})
    same = (known.get("path"), known.get("asked")) == (model.path, model.revision)
    return model.model_copy(update={"revision": known["commit"]}) if same else model


def _warn_of_another(run: Run) -> None:
    beat = Beat.read(run)
    if beat is not None and beat.alive():
        say(f"score: a job wrote here {duration(beat.age())} ago; if it still runs, stop one: both would do all of it")


def _all_there(run: Run, summary: dict[str, Any]) -> bool:
    """Whether a finished run's shards are as many rows as they were: a lost or damaged file is made again."""
    found, broken = shards.Footers(run.path(shards.FOLDER)).look()
    whole = not broken and sum(shard.rows for shard in found) == summary["images"]
    return whole and storage.exists(run.path("quarantine", conclusion.QUARANTINE))


def _strikes(run: Run) -> str:
    return run.path("checkpoints", "strikes")


def _remotely(work: Any, *arguments: Any) -> Any:
    """Does something with many files in a worker: what is read must not pass through the driver."""
    return ray.get(ray.remote(num_cpus=0)(work).remote(*arguments))


def _settings(recipe: Recipe, weights: str) -> dict[str, object]:
    """All that a score depends on, besides the image and its class's name."""
    return {
        "seed": recipe.seed,
        "weights": weights,
        "dtype": recipe.model.dtype,
        "split": recipe.data.train,
        **recipe.score.model_dump(mode="json", exclude=set(Score.RUNTIME)),
    }


def _key(settings: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _described(summary: dict[str, int]) -> str:
    return f"{summary['scored']} images scored, {summary['quarantined']} in quarantine"


def _execute(job: Job) -> None:
    settings = job.recipe.score
    filesystem, target = storage.open_uri(job.run.path(shards.FOLDER))
    with checkpointed(job.commits):
        rows = manifests.read(job.run, job.recipe.data.train).repartition(
            target_num_rows_per_block=min(_ROWS_PER_TASK, job.rows_per_shard)
        )
        loaded = rows.map_batches(
            load,
            batch_size=settings.batch,
            batch_format="pyarrow",
            fn_kwargs={"settings": settings, "factor": job.geometry.factor},
        )
        scored = loaded.map_batches(job.actor, batch_size=settings.batch, batch_format="pyarrow", **_actors(job))
        shard = scored.repartition(target_num_rows_per_block=job.rows_per_shard, strict=True)
        shard.map_batches(shards.arrange, batch_size=None, batch_format="pyarrow").write_parquet(
            target,
            filesystem=filesystem,
            schema=schemas.scores(job.geometry.feature_sizes[settings.dift_block]),
            compression="zstd",
            row_group_size=shards.ROWS_PER_GROUP,
        )


def _gpus(settings: Score) -> float:
    """GPUs an actor."""
    return settings.gpus if settings.gpus is not None else float(cluster.gpus() > 0)


def _pool(settings: Score) -> tuple[int, int]:
    """Least and most scoring actors."""
    gpus = _gpus(settings)
    actors = settings.actors or (max(1, int(cluster.gpus() // gpus)) if gpus else 1)
    return (actors, actors) if isinstance(actors, int) else actors


def _threads(settings: Score) -> int:
    """CPU cores of an actor that has no GPU."""
    return max(1, cluster.cores() // _pool(settings)[1])


def _actors(job: Job) -> dict[str, object]:
    settings = job.recipe.score
    gpus, (least, most) = _gpus(settings), _pool(settings)
    # Reading, writing and, in a resumed run, Ray's id filter want a CPU each, or the job would wait for ever.
    cpus = 0 if gpus or ray.cluster_resources().get("CPU", 0) < most + 2 else 1
    known = {
        "recipe": job.recipe,
        "pretrained": job.run.path(MODEL_FOLDER),
        "strikes": _strikes(job.run),
        "threads": _threads(settings),
    }
    pool = ActorPoolStrategy(min_size=least, max_size=most)
    return {"compute": pool, "num_gpus": gpus, "num_cpus": cpus, "fn_constructor_kwargs": known}
