"""Curves of a training as TensorBoard's event files: loss and learning rate of each epoch, accuracy of validations."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from ddps_ray import storage, uris
from ddps_ray.console import Ticker
from ddps_ray.students.training import Point

_SELDOM = 10.0
"""Seconds from one flush to the next, which waits for the disk."""

LOSS, RATE, ACCURACY = "loss", "learning_rate", "accuracy"
"""Tags of the scalars, whose step is the number of finished epochs."""


class Curves:
    """The one event file of a training, which holds each point once, however often the training was cut short.

    A training that goes on writes what was before anew, and then deletes the earlier file. On this machine the file
    grows all the time; elsewhere it is copied by `keep`, and when the training is done.
    """

    def __init__(self, uri: str, before: Iterable[Point]) -> None:
        """Begins the file.

        Args:
            uri: Path or URI of its folder, which no other training has.
            before: Points of the epochs that are finished.

        Raises:
            OSError: It cannot be written.
        """
        # Here, because a worker alone needs them, and they take a third of a second.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self._uri = uri
        self._away = tempfile.TemporaryDirectory() if uris.is_uri(uri) else None
        folder = Path(self._away.name if self._away else storage.open_uri(uri)[1])
        folder.mkdir(parents=True, exist_ok=True)
        self._writer, self._ticker = EventsWriter(str(folder / "events")), Ticker(_SELDOM)
        self._file = Path(self._writer._file_name)
        # A TensorBoard that has read the earlier file forgets its points.
        self._write(step=0, session_log=SessionLog(status=SessionLog.START))
        for point in before:
            self.add(point)
        self.keep()
        for old in list(storage.list_files(uri, recursive=False)):
            if old.base_name != self._file.name:
                storage.discard(storage.join(uri, old.base_name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.keep()
        self._writer.close()
        if self._away is not None:
            self._away.cleanup()

    def add(self, point: Point) -> None:
        """Adds the scalars of an epoch."""
        from tensorboardX.summary import scalar

        values = {LOSS: point.loss, RATE: point.lr, ACCURACY: point.accuracy}
        for tag, value in values.items():
            if value is not None:
                self._write(step=point.epoch, wall_time=point.time, summary=scalar(tag, value))
        if self._ticker.due():
            self._writer.flush()

    def keep(self) -> None:
        """Copies the file, if it is not where it is to be; what has been added is there then."""
        self._writer.flush()
        if self._away is not None:
            storage.write_bytes(storage.join(self._uri, self._file.name), self._file.read_bytes())

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(**fields))
