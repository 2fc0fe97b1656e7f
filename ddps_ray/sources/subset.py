"""A random subset of the training images: the same whatever their order, and on every machine."""

import hashlib

import numpy as np
import pyarrow as pa

_BATCH = 65_536


def choose(rows: pa.Table, per_class: int, seed: int) -> pa.Table:
    """Returns, in their order, the `per_class` images of each class whose digests of (seed, image_id) are the smallest.

    A class that has fewer keeps all of them.
    """
    keys = np.concatenate([_keys(batch["image_id"], seed) for batch in rows.to_batches(_BATCH)] or [np.empty(0)])
    codes = rows["class_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((keys, codes))
    starts = np.searchsorted(codes[order], codes[order])  # where each one's class begins
    chosen = order[np.arange(len(order)) - starts < per_class]
    return rows.take(pa.array(np.sort(chosen)))


def _keys(image_ids: pa.Array, seed: int) -> np.ndarray:
    digests = b"".join(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:8] for image_id in image_ids.to_pylist())
    return np.frombuffer(digests, ">u8").astype(np.uint64)
