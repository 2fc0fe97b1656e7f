"""Tar shards in a store are listed with a request for each few megabytes, and when it fails requests."""

import os
from pathlib import Path

from ddps_ray import storage
from ddps_ray.sources import reading, webdataset
from tests.sources.datasets import tar
from tests.stores.conftest import Store
from tests.stores.flaky import flaky

SHARDS = 8
IMAGES = {f"{n:03d}": os.urandom(20_000 + n) for n in range(20)}


def put(store: Store, folder: str, tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for n, (name, data) in enumerate(IMAGES.items()):
        members |= {f"{name}.cls": f"class {n % 3}".encode(), f"{name}.jpg": data}
    tar(tmp_path / "train-0.tar", members)
    storage.write_bytes(store.uri(f"{folder}/train-0.tar"), (tmp_path / "train-0.tar").read_bytes())


def test_a_request_brings_all_of_a_small_shard(store: Store, tmp_path: Path) -> None:
    put(store, "tar", tmp_path)
    with flaky(store.address, share=0) as proxy:
        found = webdataset.list_images(store.uri("tar", proxy.address), ["train"])
    gets = sum(times for request, times in proxy.attempts.items() if request.startswith("GET") and ".tar" in request)
    assert gets <= 3
    rows = found.splits["train"]
    assert rows["class_id"].to_pylist() == [f"class {n % 3}" for n in range(len(IMAGES))]
    uris = [uri.replace(proxy.address, store.address) for uri in rows["uri"].to_pylist()]
    assert [reading.read_encoded(uri) for uri in uris] == list(IMAGES.values())


def test_labels_are_read_though_some_requests_fail(store: Store, tmp_path: Path) -> None:
    put(store, "bad-tar", tmp_path)
    for n in range(1, SHARDS):
        storage.write_bytes(store.uri(f"bad-tar/train-{n}.tar"), (tmp_path / "train-0.tar").read_bytes())
    with flaky(store.address, share=0.25, seed=2) as proxy:
        found = webdataset.list_images(store.uri("bad-tar", proxy.address), ["train"])
    assert proxy.counts["SlowDown"] > 0
    assert (found.splits["train"].num_rows, found.notes) == (SHARDS * len(IMAGES), ())
