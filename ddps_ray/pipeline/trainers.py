"""One way to run a training function with Ray Train, and where its checkpoints and bad images go."""

import hashlib
import io
import json
import logging
import math
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from torch import nn

from ddps_ray import storage
from ddps_ray.config import Recipe
from ddps_ray.console import say
from ddps_ray.errors import UserError, first_line
from ddps_ray.gpus import sharing
from ddps_ray.pipeline import cluster
from ddps_ray.pipeline.lost_nodes import LostNodes
from ddps_ray.remedies import lasting_error, may_be_damage, user_error
from ddps_ray.storage import Run
from ddps_ray.students.optimising import Share

CHECKPOINTS = "checkpoints"
"""Folder of the run directory that Ray Train uses while a training lasts."""

_FAILURES = 3
_RAY_PARTS = 10_000
"""Ray counts in ten-thousandths; a share that it rounded up would leave no room for the last of its kind."""
_STATE_FILE = "state.pt"

# The first would print each line of a worker twice; the second would add an actor and an error line to each training,
# and a lost node is recognised without it.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


class Unreadable(Exception):  # noqa: N818 - it is not known to be an error for the user
    """What a worker could not read, as the text of its traceback: another try would meet it again."""


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's, but for two things that a command has no use for, and with an eye for nodes that vanish."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Ctrl-C is the command's to handle, as in every other stage: Ray Train would end it with 1, without a word."""

    def _create_default_callbacks(self) -> list[Any]:
        """Leaves out a watch over a training whose driver lives on without it.

        It is a process of its own which asks the dashboard once a second: where Ray runs without one it complains each
        time, and where another Ray is on the machine it dies of that. Here a driver ends with its training.
        """
        callbacks: list[Any] = super()._create_default_callbacks()
        kept = [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]
        return [*kept, LostNodes()]


def slots(workers: int, recipe: Recipe, gpus: float = 1.0) -> int:
    """How many trainings of so many workers the cluster can hold at the same time: one GPU a worker, or one CPU.

    Where too few are there and more come when they are asked for, one, or what goes on one GPU.

    Args:
        workers: Workers of a training.
        recipe: Says whether each asks for a GPU.
        gpus: Share of a GPU that a worker takes.

    Raises:
        UserError: Not even one.
    """
    gpu = cluster.trains_on_gpus(recipe)
    kind, have = ("GPUs", cluster.gpus()) if gpu else ("CPUs", _cpus())
    if workers <= have:
        return int(have // workers) * (sharing(gpus) if gpu else 1)  # a share is of one GPU, and of no two
    if (gpu and recipe.train_on_gpus) or cluster.grows():
        return sharing(gpus) if gpu else 1
    raise UserError(f"workers: {workers} workers need {workers} {kind}, the cluster has {have:g}")


def threads(cpus: float, node_gpus: float, cores: int, workers: int, gpus: float) -> int:
    """CPU threads for a worker: an even part of its node, among the workers that can be there at the same time.

    Args:
        cpus: CPUs that Ray knows of the node; 0 where it gives none away.
        node_gpus: GPUs that it knows of.
        cores: CPU cores that a process may use there.
        workers: Workers of all trainings at the same time.
        gpus: Share of a GPU that each of them takes; 0 for one CPU.
    """
    room = node_gpus * sharing(gpus) if gpus else cpus
    return max(1, int(min(cpus or cores, cores) // min(workers, max(1, int(room)))))


def fit(
    work: Callable[..., None],
    arguments: dict[str, Any],
    run: Run,
    name: str,
    workers: int,
    recipe: Recipe,
    together: int = 1,
    gpus: float = 1.0,
) -> None:
    """Runs `work(**arguments)` on Ray Train workers; one that dies is started again, from its checkpoint if it has one.

    A training of the same name that was cut short goes on from its checkpoint; when it is done, that is deleted.
    The CPUs of a node are shared out evenly among the workers that it can have at the same time.

    Args:
        work: A function of a module, which writes its own results.
        arguments: Its keyword arguments.
        run: Where checkpoints go.
        name: Of the training; safe as a file name.
        workers: Number of workers.
        recipe: Says whether each asks for a GPU.
        together: Trainings that run at the same time.
        gpus: Share of a GPU that a worker takes, of its memory too.

    Raises:
        UserError: `work` raised it, or the state to go on from is damaged.
        Unreadable: Workers have met what can be a damaged file of the run.
        ray.train.TrainingFailedError: Workers failed again and again.
    """
    slots(workers, recipe, gpus)
    _check_snapshot(run, name)
    on_gpus = cluster.trains_on_gpus(recipe)
    asked = {"GPU": math.floor(gpus * _RAY_PARTS) / _RAY_PARTS} if on_gpus else {"CPU": 1.0}
    means = {"workers": workers * together, "gpus": gpus if on_gpus else 0.0}
    filesystem, folder = storage.open_uri(run.path(CHECKPOINTS))
    trainer = Trainer(
        _guarded,
        train_loop_config={"work": work, "arguments": arguments, "run_dir": run.uri, **means},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpus, resources_per_worker=asked),
        # A worker alone has nobody to talk to; gloo lets it run on a GPU that exists in name only.
        torch_config=TorchConfig(backend="gloo" if workers == 1 else None),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    if wrong := _fit(trainer).return_value:
        raise Unreadable(wrong[1]) if wrong[0] else UserError(wrong[1])
    storage.remove(run.path(CHECKPOINTS, name))


def _fit(trainer: Trainer) -> ray.train.Result:
    """Fits it, also where a worker dies just before it begins, which Ray Train takes for an error of its own."""
    for _ in range(_FAILURES):
        try:
            return trainer.fit()
        except ray.train.ControllerError as error:
            if not isinstance(error.controller_failure, RayActorError):
                raise
    return trainer.fit()


def reason(error: Exception, run: Run) -> str:
    """Why a training failed, in a line.

    Args:
        error: What `fit` raised.
        run: Run directory.
    """
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    if known := user_error(first, run.uri):
        return known
    said = str(first)
    last = said.strip().rpartition("\n")[2].strip()
    return last if said.startswith("Traceback") else f"{type(first).__name__}: {last}"


def share() -> Share:
    """This worker's part of the training."""
    context = ray.train.get_context()
    return Share(context.get_world_rank(), context.get_world_size())


def report(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
    """Tells Ray Train how far this worker is; all workers must, and one of them gives the state to go on from."""
    if state is None:
        ray.train.report(metrics)
        return
    stream = io.BytesIO()
    torch.save(state, stream)  # not into the file: of a full disk torch says no more than that a stream has failed
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _STATE_FILE).write_bytes(stream.getbuffer())
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def saved_state(run: Run, name: str) -> dict[str, Any] | None:
    """The state that a training which was cut short goes on from, if there is one.

    Args:
        run: Where checkpoints go.
        name: Of the training.

    Raises:
        UserError: It is damaged.
    """
    saved = ray.train.get_checkpoint()
    if saved is None:
        return None
    with saved.as_directory() as folder:
        return _loaded(Path(folder) / _STATE_FILE, run, name)


def _loaded(file: Path, run: Run, name: str) -> dict[str, Any]:
    try:
        return dict(torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True))
    except Exception as error:  # torch knows a dozen ways in which it can be damaged
        raise UserError(_begin_anew(run, name, first_line(error))) from error


def with_states(run: Run) -> set[str]:
    """The names of trainings that have left something to go on from."""
    return set(storage.list_folders(run.path(CHECKPOINTS)))


def drop_cut_states(run: Run, name: str) -> None:
    """Deletes the states of a training whose list was cut, as a kill may leave it: a short one then begins anew."""
    try:
        _check_snapshot(run, name)
    except UserError as error:
        say(f"warning: {error}; that is done here")
        storage.remove(run.path(CHECKPOINTS, name))


def _check_snapshot(run: Run, name: str) -> None:
    """Sees to it that Ray Train's own list of a training's states, which it does not write atomically, is whole."""
    uri = run.path(CHECKPOINTS, name, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)
    if not storage.exists(uri):
        return
    listed = storage.read_bytes(uri).decode(errors="replace")
    try:
        json.loads(listed)
    except ValueError as error:
        raise UserError(_begin_anew(run, name, first_line(error))) from error
    for state in re.findall(r'"(checkpoint_\d[^"/]+)"', listed):
        if not storage.exists(run.path(CHECKPOINTS, name, state)):
            raise UserError(_begin_anew(run, name, f"{state} is missing"))


def _begin_anew(run: Run, name: str, reason: str) -> str:
    said = f"the state of the training is damaged ({reason})"
    return f"{run.path(CHECKPOINTS, name)}: {said}: delete this folder, and the training begins anew"


def device() -> torch.device:
    """Where this worker computes: its GPU, or the CPU, also where its GPU exists in name only."""
    return ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")


def prepare(module: nn.Module, **for_ddp: bool) -> nn.Module:
    """Puts a module on this worker's device, and wraps it for distributed training if there are several workers.

    Args:
        module: The module.
        for_ddp: Arguments of `DistributedDataParallel`.
    """
    prepared: nn.Module = ray.train.torch.prepare_model(
        module, move_to_device=device(), parallel_strategy_kwargs=for_ddp
    )
    return prepared


def write_quarantine(run: Run, stage: str, rows: pa.Table, class_ids: Sequence[str]) -> None:
    """Writes a stage's bad images, one file for each class that they are of, and says how many.

    Trainings that meet a class meet all of its images, and write the same file: each image is listed once, whichever
    classes a training has, and whatever trains at the same time.

    Args:
        run: Run directory.
        stage: The stage, and where each worker has a part of the images, its number.
        rows: Quarantine rows of the bad images.
        class_ids: The class of each.
    """
    if rows.num_rows:
        say(f"{stage}: {rows.num_rows} images cannot be used; the reasons are in {run.path('quarantine')}")
    for class_id in sorted(set(class_ids)):
        mine = rows.filter(pa.array([each == class_id for each in class_ids]))
        digest = hashlib.sha256(class_id.encode()).hexdigest()[:16]  # a class's name may be no name of a file
        storage.write_table(run.path("quarantine", f"{stage}-{digest}.parquet"), mine)


def _cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1))


def _threads(workers: int, gpus: float) -> int:
    """CPU threads for this worker, by the node that it is on."""
    here = ray.get_runtime_context().get_node_id()
    has = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return threads(has.get("CPU", 0), has.get("GPU", 0), cluster.cores(), workers, gpus)


def _guarded(config: dict[str, Any]) -> tuple[bool, str] | None:
    """Runs the work; rank 0 returns an error for which Ray Train would only try again.

    Returns:
        Whether it can be a damaged file, which is for the driver to find; and the text for the user, or for the search.
    """
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train announces each report there, whatever its own level
    torch.set_num_threads(_threads(config["workers"], config["gpus"]))
    if 0 < config["gpus"] < 1 and torch.cuda.is_available():  # so that it does not take what its neighbours need
        torch.cuda.set_per_process_memory_fraction(config["gpus"], device())
    try:
        config["work"](**config["arguments"])
    except Exception as error:
        told = lasting_error(error, config["run_dir"])
        unreadable = told is None and may_be_damage(error)
        if share().rank or not (told or unreadable):
            if told:
                raise UserError(told) from error
            raise
        return unreadable, told or "".join(traceback.format_exception(error))
    return None
