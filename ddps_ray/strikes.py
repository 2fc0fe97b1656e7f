"""Batches on which a GPU failed: an image that always breaks one must not break it for ever."""

import hashlib
import uuid
from collections import Counter

from ddps_ray import storage

OUT = 3
"""So many failures make an error row of each image of the batch."""


class Strikes:
    """Counts, in files, the failures of each batch; a restarted process knows those before it."""

    def __init__(self, folder: str, again: bool) -> None:
        """Opens the count.

        Args:
            folder: URI of a folder, which need not be there.
            again: Whether this process takes the place of one that ended; only then there is something to read.
        """
        self._folder = folder
        listed = storage.list_files(folder) if again else ()
        self._counts = Counter(file.base_name.partition("-")[0] for file in listed)

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
