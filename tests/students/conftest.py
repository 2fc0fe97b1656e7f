"""Tiny networks are fastest, and the same everywhere, on one thread; and the store of `tests.stores`."""

from collections.abc import Iterator

import pytest
import torch

from tests.stores.conftest import store as store


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one CPU thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
