"""Fixtures shared by all tests: a real Ray on this machine, and small real data."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from ddps_ray.quickstart.objects import write_image_folder

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray of four logical CPUs for the whole session."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cluttered objects: 12 training and 6 validation images of each of the ten classes; read only."""
    root = tmp_path_factory.mktemp("scenes")
    for _ in write_image_folder(root, {"train": 12, "val": 6}, seed=0):
        pass
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs beside the checkout; a test that wants them skips where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the checkout: real photographs are not here")
    return folder
