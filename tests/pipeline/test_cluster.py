"""What is set before Ray is imported; how it matters, `python -m tests.faults.kills --kind driver write` shows."""

import os
import subprocess
import sys

WAIT = "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S"
CODE = """
import ddps_ray.pipeline.score
from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler

print(RateBasedClusterAutoscaler.AUTOSCALING_REQUEST_EXPIRE_TIME_S)
"""


def test_a_killed_drivers_claim_on_the_cluster_ends_soon_unless_the_user_says_otherwise() -> None:
    environment = {key: value for key, value in os.environ.items() if key != WAIT}
    assert _said(environment) == "30"
    assert _said(environment | {WAIT: "75"}) == "75"


def _said(environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
