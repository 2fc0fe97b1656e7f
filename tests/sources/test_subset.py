"""A subset is the same whatever the order of the rows, of the size that was asked, and another for another seed."""

import hashlib
import itertools

import numpy as np
import pyarrow as pa

from ddps_ray.sources import subset


def table(count: int) -> pa.Table:
    ids = [f"train/c{n % 3}/{n}" for n in range(count)]
    return pa.table({"image_id": ids, "class_id": [image_id.split("/")[1] for image_id in ids]})


def test_the_smallest_digests_of_each_class_in_the_order_of_the_rows() -> None:
    rows = table(200)
    chosen = subset.choose(rows, 5, seed=7)["image_id"].to_pylist()
    expected = set()
    for class_id in ("c0", "c1", "c2"):
        of_class = [image_id for image_id in rows["image_id"].to_pylist() if f"/{class_id}/" in image_id]
        expected |= set(sorted(of_class, key=lambda image_id: hashlib.sha256(f"7/{image_id}".encode()).digest())[:5])
    assert set(chosen) == expected
    assert chosen == [image_id for image_id in rows["image_id"].to_pylist() if image_id in expected]
    mixed = rows.take(np.random.default_rng(0).permutation(200))
    assert set(subset.choose(mixed, 5, seed=7)["image_id"].to_pylist()) == expected
    assert set(subset.choose(rows, 5, seed=8)["image_id"].to_pylist()) != expected


def test_a_larger_subset_contains_the_smaller_and_a_small_class_stays_whole() -> None:
    rows = table(30)
    sets = [set(subset.choose(rows, size, seed=0)["image_id"].to_pylist()) for size in (1, 4, 9, 99)]
    assert [len(each) for each in sets] == [3, 12, 27, 30]
    assert all(small < large for small, large in itertools.pairwise(sets))
