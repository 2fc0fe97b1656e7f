"""Parquet files in a store are listed at the same time, since each row group of each costs a request."""

import threading
from pathlib import Path

import pyarrow.parquet as pq

from ddps_ray import storage
from ddps_ray.sources import huggingface
from tests.sources.datasets import hf_table
from tests.stores.conftest import Store
from tests.stores.flaky import Flaky

FILES = 4


class Together(Flaky):
    """A proxy that answers the first request to read each Parquet file once all of them are asked for.

    Attributes:
        alone: Whether one was asked for, and the others were not while it waited.
    """

    def __init__(self, store: str) -> None:
        super().__init__(store, share=0, seed=0)
        self.alone = False
        self._all = threading.Barrier(FILES)

    def fate(self, request: str) -> str:
        """Waits for the others."""
        kind = super().fate(request)
        if request.startswith("GET") and ".parquet" in request and self.attempts[request] == 1:
            try:
                self._all.wait(10)
            except threading.BrokenBarrierError:
                self.alone = True
        return kind


def test_files_are_read_at_the_same_time(store: Store, tmp_path: Path) -> None:
    for n in range(FILES):
        pq.write_table(hf_table([{"bytes": b"x", "path": f"{n}.jpg"}], [n % 2], ["ape", "bee"]), tmp_path / "file")
        storage.write_bytes(store.uri(f"files/train-{n}.parquet"), (tmp_path / "file").read_bytes())
    with Together(store.address) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            found = huggingface.list_images(store.uri("files", proxy.address), ["train"])
        finally:
            proxy.shutdown()
    assert not proxy.alone
    assert found.splits["train"]["image_id"].to_pylist() == [
        "train/ape/0.jpg",
        "train/bee/1.jpg",
        "train/ape/2.jpg",
        "train/bee/3.jpg",
    ]
