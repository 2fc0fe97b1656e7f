"""Joining or starting Ray, the same way for every stage."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.autoscaler._private.util import format_readonly_node_type
from ray.experimental.internal_kv import _internal_kv_get

from ddps_ray import interruption
from ddps_ray.config import Recipe
from ddps_ray.errors import UserError, first_line
from ddps_ray.pipeline import noise
from ddps_ray.students import images

STORE_FAILS = "the store does not answer"
"""An error of a task that says so is worth another try, by Ray, after those of the store's own client."""

_FOR_ALL_NODES = (images.PLACE, images.LIMIT)
"""Environment variables that hold on each node if they are set where the command runs."""

_ROOM = 50 << 20
"""Bytes that the disk of Ray's temporary folder must have free."""

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")


def connect(recipe: Recipe) -> None:
    """Joins the cluster of the recipe or of the submitted job, or starts Ray on this machine; once a process.

    Raises:
        UserError: No cluster answers at the recipe's address, or there is no room here to start one.
    """
    if ray.is_initialized():
        return
    address = recipe.address or os.environ.get("RAY_ADDRESS")
    quiet = {"logging_level": logging.WARNING, "logging_config": ray.LoggingConfig(log_level="ERROR")}
    if address is None:
        _check_room(Path(get_default_ray_temp_dir()))
        ray.init(address="local", include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=address, runtime_env=_for_all_nodes(), **quiet)
        except (ConnectionError, ValueError) as error:
            raise UserError(
                f"address: no Ray cluster answers at {address}; one that asks for a token needs RAY_AUTH_MODE=token"
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.retried_map_errors, context.max_map_retries = [STORE_FAILS], 3
    noise.leave_out()
    interruption.take_sigterm()  # Ray's own way prints a stack, and aborts the process 3 s later


def _for_all_nodes() -> dict[str, dict[str, str]] | None:
    """The runtime environment that tells the nodes of a cluster what this process was told, unless the job does."""
    submitted = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}").get("runtime_env") or {}
    wanted = set(_FOR_ALL_NODES) - set(submitted.get("env_vars") or {})  # Ray refuses what is said twice
    told = {name: os.environ[name] for name in wanted if os.environ.get(name)}
    return {"env_vars": told} if told else None


def _check_room(folder: Path) -> None:
    """Sees to it that a Ray started here can write its logs: without, it floods the console, and its workers die."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if (free := shutil.disk_usage(there).free) < _ROOM:
        raise UserError(
            f"{folder}: {free >> 20} MB are free there, too few for Ray's logs and for what does not fit into memory: "
            "make room, or set RAY_TMPDIR to another folder"
        )


@contextmanager
def answering() -> Iterator[None]:
    """Within it, a store that does not answer, although its client has tried again and again, is an error for the user.

    Raises:
        UserError: One line that Ray knows by `STORE_FAILS`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{STORE_FAILS}: {first_line(error)}; the same command goes on from here") from error


def gpus() -> float:
    """GPUs that the cluster has now."""
    return float(ray.cluster_resources().get("GPU", 0))


def grows() -> bool:
    """Whether an autoscaler brings nodes when they are asked for, as far as can be known."""
    if ray._private.state.state.get_max_resources_from_cluster_config():
        return True
    said = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    types = said.get("autoscaler_report", {}).get("node_type_mapping") or {}
    # Where nothing scales, each node is a type of its own.
    return not set(types.values()) <= {format_readonly_node_type(node["NodeID"]) for node in ray.nodes()}


def trains_on_gpus(recipe: Recipe) -> bool:
    """Whether a training asks for GPUs."""
    return gpus() > 0 if recipe.train_on_gpus is None else recipe.train_on_gpus


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
