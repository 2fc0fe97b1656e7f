"""A line now and then about how far a stage is, read from the files that its workers have committed."""

import threading
import time
from types import TracebackType
from typing import Self

import pyarrow.parquet as pq

from ddps_ray import storage
from ddps_ray.console import say


class Heartbeat:
    """Says at intervals how many rows a folder of Parquet files has, how fast they come, and when they will be all."""

    def __init__(self, stage: str, folder: str, total: int, seconds: float = 10.0) -> None:
        """Watches a folder.

        Args:
            stage: Name that begins each line.
            folder: URI of the Parquet files.
            total: Rows there will be.
            seconds: Interval between lines.
        """
        self._stage, self._folder, self._total, self._seconds = stage, folder, total, seconds
        self._rows: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._begun, self._before = time.monotonic(), self._count()
        if self._before:
            say(f"{self._stage}: {self._before} of {self._total} were done before; going on with the others")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            rows = self._count()
            rate = (rows - self._before) / (time.monotonic() - self._begun)
            left = f", about {(self._total - rows) / rate:.0f} s left" if rate > 0 else ""
            say(f"{self._stage}: {rows} of {self._total} images, {rate:.1f}/s{left}")

    def _count(self) -> int:
        filesystem, _ = storage.open_uri(self._folder)
        for file in storage.list_files(self._folder):
            if file.path not in self._rows and file.path.endswith(".parquet") and file.size:
                try:
                    self._rows[file.path] = pq.read_metadata(file.path, filesystem=filesystem).num_rows
                except (OSError, ValueError):
                    continue  # being written just now; counted the next time
        return sum(self._rows.values())
