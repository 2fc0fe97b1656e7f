"""A foreign set may lie in an object store, in each format."""

from pathlib import Path

import torch

from ddps_ray import storage
from ddps_ray.config import ForeignSet
from ddps_ray.students import foreign
from tests.stores.conftest import Store
from tests.students.test_foreign import (
    LABELS,
    NUMBERS,
    images_of,
    labels_of,
    pixels,
    write_folders,
    write_parquet,
    write_tensors,
)


def test_a_set_in_a_store_is_the_same_as_here(store: Store, tmp_path: Path) -> None:
    write_folders(tmp_path / "folders" / "train")
    write_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet", NUMBERS.tolist())
    write_tensors(tmp_path / "tensors" / "labels_best.pt", NUMBERS)
    write_tensors(tmp_path / "tensors" / "images_best.pt", pixels())
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        storage.write_bytes(store.uri(f"foreign/{file.relative_to(tmp_path)}"), file.read_bytes())
    for kind in ("folders", "parquet", "tensors", "parquet/train-00000-of-00001.parquet", "tensors/images_best.pt"):
        there = ForeignSet(path=store.uri(f"foreign/{kind}"))
        here = ForeignSet(path=str(tmp_path / kind))
        ours, theirs = (foreign.look("theirs", settings, LABELS, {}) for settings in (here, there))
        assert (theirs.digest, theirs.size, theirs.counts) == (ours.digest, ours.size, ours.counts)
        found = foreign.load("theirs", there, LABELS, {}, 8)
        assert torch.equal(images_of(found), pixels()), kind
        assert labels_of(found) == NUMBERS.tolist(), kind
