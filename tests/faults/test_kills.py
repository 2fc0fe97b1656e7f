"""Whatever is killed, whenever: every image has one row, none that was safe is scored again, scores are the same."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.nodes import Cluster, cluster

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def there() -> Iterator[Cluster]:
    with cluster(workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(there: Cluster, scenes: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = kills.scene(tmp_path_factory.mktemp("undisturbed"), scenes, tiny_sd)
    made.finish(made.start(there.address))
    assert kills.check(made, made.run_dir) == {"attempts": 1, "rows": 120, "scored": 120, "twice": 0}
    return made.run_dir


# Scorers end in tests/pipeline/test_score_faults.py, drivers in test_job_killed.py and tests/stores/test_s3.py;
# `python -m tests.faults.kills` does all kinds as often as one likes.
def test_a_lost_worker_node_loses_and_repeats_nothing(
    there: Cluster, undisturbed: Path, scenes: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    made = kills.scene(tmp_path, scenes, tiny_sd)
    kills.workers_killed(made, there, random.Random(0), 1)
    cost = kills.check(made, undisturbed)
    assert (cost["rows"], cost["attempts"]) == (120, 1)
