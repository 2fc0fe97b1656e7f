"""Joining or starting Ray, the same way for every stage."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ddps_ray.config import Recipe
from ddps_ray.errors import UserError, first_line
from ddps_ray.pipeline import noise

STORE_FAILS = "the store does not answer"
"""An error of a task that says so is worth another try, by Ray, after those of the store's own client."""

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")


def connect(recipe: Recipe) -> None:
    """Joins the cluster of the recipe or of the submitted job, or starts Ray on this machine; once a process.

    Raises:
        UserError: No cluster answers at the recipe's address.
    """
    if ray.is_initialized():
        return
    address = recipe.address or os.environ.get("RAY_ADDRESS")
    quiet = {"logging_level": logging.WARNING, "logging_config": ray.LoggingConfig(log_level="ERROR")}
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"address: no Ray cluster answers at {address}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.retried_map_errors, context.max_map_retries = [STORE_FAILS], 3
    noise.leave_out()


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


def trains_on_gpus(recipe: Recipe) -> bool:
    """Whether a training asks for GPUs."""
    return gpus() > 0 if recipe.train_on_gpus is None else recipe.train_on_gpus


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
