"""What is set before Ray is imported; how it matters, `python -m tests.faults.kills --kind driver write` shows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import nodes

WAIT = "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S"
LISTS: tuple[str, ...] = (
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
)
LISTS += ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
CODE = """
import ddps_ray.pipeline.score
from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler

print(RateBasedClusterAutoscaler.AUTOSCALING_REQUEST_EXPIRE_TIME_S)
"""


def test_a_killed_drivers_claim_on_the_cluster_ends_soon_unless_the_user_says_otherwise() -> None:
    environment = {key: value for key, value in os.environ.items() if key != WAIT}
    assert _said(environment) == "30"
    assert _said(environment | {WAIT: "75"}) == "75"


NODES = """
cluster_name: test
max_workers: 4
idle_timeout_minutes: 5
upscaling_speed: 1
provider: {type: fake_multinode, head_resources: {CPU: 1}, worker_nodes: {}}
head_node_type: ray.head.default
available_node_types:
  ray.head.default: {resources: {CPU: 1}, node_config: {}, max_workers: 0}
  gpu: {resources: {CPU: 1, GPU: 1}, node_config: {}, min_workers: 0, max_workers: 4}
auth: {}
docker: {}
file_mounts: {}
file_mounts_sync_continuously: false
"""
ASK = """
import sys
from ddps_ray import config
from ddps_ray.pipeline import cluster, trainers
from tests.faults.nodes import until

values = {"run_dir": "run", "data": {"root": "data"}, "model": {"path": "quickstart"}, "address": sys.argv[1]}
recipe = config.parse(values, "test")
cluster.connect(recipe)
until(cluster.grows, "the autoscaler")
print("asked:", cluster.gpus(), cluster.trains_on_gpus(recipe), trainers.slots(4, recipe))
"""


def test_workers_are_not_too_many_where_an_autoscaler_brings_their_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nodes.ENVIRONMENT, "RAY_FAKE_CLUSTER", "1")  # nodes that exist in name only
    (tmp_path / "nodes.yaml").write_text(NODES + "".join(f"{key}: []\n" for key in LISTS))
    with nodes.cluster(0, f"--autoscaling-config={tmp_path / 'nodes.yaml'}") as made:
        asked = subprocess.run([sys.executable, "-c", ASK, made.address], env=nodes.ENVIRONMENT, capture_output=True)
    # The autoscaler may say its own lines between
    assert b"asked: 0.0 False 1" in asked.stdout.splitlines(), asked.stderr.decode()


NODE = """
import json
import os
import sys
import ray
from ddps_ray import config
from ddps_ray.pipeline import cluster

values = {"run_dir": "run", "data": {"root": "data"}, "model": {"path": "quickstart"}, "address": sys.argv[1]}
cluster.connect(config.parse(values, "test"))

@ray.remote(num_gpus=1, runtime_env={"env_vars": {"OTHER": "1"}})  # on the other node; Ray Train's workers have theirs
def told():
    return [os.environ.get(name) for name in ("DDPS_CACHE", "DDPS_CACHE_GB", "OTHER")]

print("told:", json.dumps(ray.get(told.remote())))
"""
JOB = {"runtime_env": {"env_vars": {"DDPS_CACHE": "/of-the-job"}}}


def test_where_images_are_kept_is_told_to_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DDPS_CACHE", "DDPS_CACHE_GB"):
        monkeypatch.delitem(nodes.ENVIRONMENT, name, raising=False)
    with nodes.cluster(1) as made:
        own = nodes.ENVIRONMENT | {"DDPS_CACHE": "/scratch", "DDPS_CACHE_GB": "200"}
        assert _told(made.address, own) == ["/scratch", "200", "1"]
        # A submitted job's environment is that of its driver, too.
        job = own | {"DDPS_CACHE": "/of-the-job", "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(JOB)}
        assert _told(made.address, job) == ["/of-the-job", "200", "1"]
        assert _told(made.address, nodes.ENVIRONMENT) == [None, None, "1"]


def _told(address: str, environment: dict[str, str]) -> list[str | None]:
    asked = subprocess.run([sys.executable, "-c", NODE, address], env=environment, capture_output=True, text=True)
    lines = [line for line in asked.stdout.splitlines() if line.startswith("told: ")]
    assert len(lines) == 1, asked.stderr
    found: list[str | None] = json.loads(lines[0].removeprefix("told: "))
    return found


SEEDS = """
import ddps_ray.pipeline.evaluate
from ray._private.ray_logging import stdout_deduplicator

for seed in range(4):
    line = f"ddps/ipc=10/resnet18/rded, seed {seed}: going on after epoch {seed}"
    for batch in stdout_deduplicator.deduplicate({"ip": "10.0.0.1", "pid": str(seed), "lines": [line]}):
        print(*batch["lines"])
"""


def test_lines_of_several_workers_that_differ_in_numbers_alone_are_all_said() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_DEDUP_LOGS")}
    said = subprocess.run([sys.executable, "-c", SEEDS], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [
        f"ddps/ipc=10/resnet18/rded, seed {seed}: going on after epoch {seed}" for seed in range(4)
    ]


def _said(environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
