"""Ray Data's own checkpointing: rows that are committed with a file are not done again."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig

from ddps_ray import storage

_OFF = "You've enabled checkpointing, but the logical plan doesn't support"


@contextmanager
def checkpointed(folder: str) -> Iterator[None]:
    """Within it, a Ray Data plan that reads and writes files skips the rows whose `image_id` is committed.

    Args:
        folder: URI of the checkpoints, which are kept on success.

    Raises:
        UserWarning: Ray would only warn that it cannot checkpoint the plan, and do everything again after a crash.
    """
    context = DataContext.get_current()
    filesystem, path = storage.open_uri(folder)
    config = CheckpointConfig("image_id", path, delete_checkpoint_on_success=False, override_filesystem=filesystem)
    config.checkpoint_actor_pool_max_size = 2
    context.checkpoint_config = config
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=_OFF)
            yield
    finally:
        context.checkpoint_config = None
