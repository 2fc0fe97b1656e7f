"""Batches on which a GPU failed: an image that always breaks one must not break it for ever."""

import hashlib
import uuid
from collections import Counter

from ddps_ray import storage

OUT = 3
"""So many failures make an error row of each image of the batch."""


class Strikes:
    """Counts, in files, the failures of each batch; a process that takes another's place knows those before it."""

    def __init__(self, folder: str) -> None:
        """Opens the count; takes the URI of a folder, which need not be there."""
        self._folder = folder
        self._counts = Counter(file.base_name.partition("-")[0] for file in storage.list_files(folder))

    def add(self, batch: str) -> None:
        """Counts one more failure.

        Args:
            batch: Id of the batch's first image.
        """
        storage.write_bytes(storage.join(self._folder, f"{_name(batch)}-{uuid.uuid4().hex}"), b"")

    def out(self, batch: str) -> str | None:
        """The reason why a batch is given up, or None."""
        return f"the GPU failed {OUT} times on its batch" if self._counts[_name(batch)] >= OUT else None


def _name(batch: str) -> str:
    return hashlib.sha256(batch.encode()).hexdigest()[:32]
