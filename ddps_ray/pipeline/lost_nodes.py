"""Trainings on nodes that come and go: the loss of a node is no failure of the training.

Ray Train counts preemptions apart from failures, without a limit, but takes for one only what a cloud has announced to
Ray beforehand. Spot nodes mostly just vanish.
"""

import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

_PATIENCE = 90.0
"""Seconds after which a node that does not answer is dead, as Ray's head finds: 5 requests of 13 s at most."""
_ANSWER = 10.0
"""Seconds in which a worker that lives says who it is, however busy it is."""


class LostNodes(WorkerGroupCallback):  # type: ignore[misc]
    """Tells Ray Train that workers which have died with their node were preempted.

    The workers on other nodes fail, too, when their connections break, and often are heard first. So whenever one has
    failed, all are asked.
    """

    def __init__(self) -> None:
        """Knows no worker yet."""
        self._workers: list[Any] = []

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Learns which workers there are, by rank."""
        self._workers = worker_group.get_workers()

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Replaces the error of each worker whose node is lost."""
        if not worker_group_status.errors:
            return
        for rank, worker in enumerate(self._workers):
            if _is_lost(worker):
                lost = RayActorError(error_msg=f"the node of worker {rank} is lost", preempted=True)
                worker_group_status.worker_statuses[rank].error = lost


def _is_lost(worker: Any) -> bool:
    """Whether a worker has died with its node; waits until that is known."""
    begun = time.monotonic()
    while True:
        try:
            ray.get(worker.actor.get_metadata.remote(), timeout=_ANSWER)
            return False
        except ActorDiedError:
            return not _lives(worker.metadata.node_id)
        except (RayActorError, GetTimeoutError):  # it does not answer, and nobody knows why yet
            if time.monotonic() - begun > _PATIENCE:
                return not _lives(worker.metadata.node_id)
            time.sleep(1)


def _lives(node_id: str) -> bool:
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)
