"""What workers have done is added up while their tasks still run, and a replaced or forgotten one counts right."""

from typing import Any

import pytest
import ray

from ddps_ray.pipeline import tally
from ddps_ray.pipeline.tally import Tally

pytestmark = pytest.mark.usefixtures("ray_session")


class Worker:
    """Counts once, as a scoring actor does; a second message within a second would wait."""

    def __init__(self, name: str, count: int) -> None:
        self._tally = Tally(name)
        self._tally.add(count, count / 2)

    def alive(self) -> bool:
        """Answers once it has counted."""
        return True

    def add(self, count: int) -> None:
        """Counts more."""
        self._tally.add(count)


def _worker(name: str, count: int) -> Any:
    return ray.remote(num_cpus=0)(Worker).remote(name, count)


def test_the_counts_of_living_workers_are_added_and_each_name_is_its_own() -> None:
    workers = [_worker("a", 2), _worker("a", 4), _worker("b", 100)]
    ray.get([each.alive.remote() for each in workers])
    assert tally.total("a") == (6, 3.0)
    assert tally.total("b") == (100, 50.0)
    tally.forget("a")
    assert tally.total("a") == (0, 0.0)
    assert tally.total("b") == (100, 50.0)
    tally.forget("b")


def test_what_a_dead_worker_did_still_counts() -> None:
    first = _worker("c", 3)
    ray.get(first.alive.remote())
    ray.kill(first)
    second = _worker("c", 5)
    ray.get(second.alive.remote())
    assert tally.total("c")[0] == 8
    tally.forget("c")


def test_messages_are_a_second_apart_at_least() -> None:
    one = _worker("d", 1)
    ray.get(one.add.remote(10))
    assert tally.total("d")[0] == 1
    tally.forget("d")


def test_a_process_has_one_tally_of_a_name() -> None:
    assert tally.of_this_process("e") is tally.of_this_process("e")
    assert tally.of_this_process("e") is not tally.of_this_process("f")
