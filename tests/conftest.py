"""Fixtures shared by all tests: a real Ray on this machine, and small real data."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from ddps_ray.config import Pretrain
from ddps_ray.diffusion.saving import save
from ddps_ray.diffusion.small import build
from ddps_ray.quickstart.objects import write_image_folder
from ddps_ray.quickstart.shapes import CLASSES

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For the store that tests/stores starts. Here, because the workers of Ray have the environment in which it was started.
os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
_CACHE = tempfile.TemporaryDirectory(prefix="ddps-cache-")
os.environ["DDPS_CACHE"] = _CACHE.name


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
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Stable Diffusion of 4 px a latent position, tiny enough for a test; read only."""
    folder = tmp_path_factory.mktemp("tiny_sd")
    sizes = Pretrain(vae_channels=(8, 8, 8), unet_channels=(8, 16), text_width=16, text_layers=1)
    torch.manual_seed(0)
    prompts = ["An image of .", *(f"An image of {name}" for name in CLASSES), "a " * 80]
    save(build(sizes, prompts), folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs beside the checkout; a test that wants them skips where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the checkout: real photographs are not here")
    return folder
