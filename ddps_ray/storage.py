"""Files at any URI through pyarrow.fs, written whole or not at all; and a run directory that knows what made it."""

import hashlib
import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ddps_ray import __version__, uris
from ddps_ray.errors import UserError, first_line
from ddps_ray.schemas import LAYOUT

RECORD = "run.json"
_OBJECT_STORES = ("s3", "gcs", "abfs")
_TOO_SMALL = "Failed to flush response stream"
"""What S3's client says, and gives up, when it has asked for fewer bytes than the text of the error that it gets."""
_GARBLED = "Couldn't deserialize thrift"
"""What Arrow says, as an OSError like any of a store, where a Parquet file's footer is there but is no footer."""
_PACKAGES = ("ray", "torch", "diffusers", "transformers", "pyarrow", "scikit-learn", "timm", "pillow")


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """Splits a local path or URI into its file system and the path inside it; a relative path becomes absolute.

    Raises:
        UserError: The URI's scheme or an option is not known, or its store cannot be reached.
    """
    if not uris.is_uri(uri):
        return fs.LocalFileSystem(), str(expanded(uri).resolve())
    found = uris.parse(uri)
    try:
        store, top = _store(str(uris.Uri(f"{found.store}/", "", found.options)))
    except (pa.ArrowInvalid, OSError) as error:
        hint = "; for a ? in a name write %3F" if found.options else ""
        raise UserError(f"{uri}: {first_line(error)}{hint}") from error
    return store, top.rstrip("/") + found.path


def expanded(path: str) -> Path:
    """Returns a path of this machine with the folder that `~` stands for.

    Raises:
        UserError: It is empty, or there is no such folder.
    """
    if not path.strip():
        raise UserError("an empty path is none: name a folder or a URI; . is the folder here")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        home = path.partition("/")[0]
        raise UserError(f"{path}: there is no home folder {home}; for a name that begins so write ./{path}") from error


class PatientS3(fs.S3FileSystem):  # type: ignore[misc]
    """S3 that bears a minute of throttling, failures and lost connections.

    One that a URI makes gives up after 6 s, and after 3 attempts once it is pickled, since its pickle leaves the retry
    strategy out. Google's waits 15 minutes as it is.
    """

    ATTEMPTS = 10
    """With pauses that double from 1 s to 20 s, times a random share."""

    def __init__(self, **options: Any) -> None:
        """Takes what `pyarrow.fs.S3FileSystem` does, but for the retry strategy."""
        super().__init__(**options, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=self.ATTEMPTS))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(PatientS3, **_options(self)), ()


@lru_cache
def _store(uri: str) -> tuple[fs.FileSystem, str]:
    """A store's file system, made once: making one may cost a round trip to find its region."""
    filesystem, path = fs.FileSystem.from_uri(uri)
    if isinstance(filesystem, fs.S3FileSystem):
        options = _options(filesystem)
        if PatientS3(**options) != filesystem:
            raise pa.ArrowInvalid("an option in this URI's query would be lost on the way to Ray's workers")
        # A small object is then one request, not the three of an upload in parts, and a kill leaves no parts behind.
        filesystem = PatientS3(**options | {"allow_delayed_open": True})
    return filesystem, str(path)


def _options(filesystem: fs.S3FileSystem) -> dict[str, Any]:
    """The arguments that would make this file system again, as its pickle has them."""
    _, (options,) = fs.S3FileSystem.__reduce__(filesystem)
    return dict(options)


def join(uri: str, *parts: str) -> str:
    """Appends path parts to a path or URI; in a URI they are percent-encoded, and its query stays at the end."""
    return uris.join(uri, *parts) if uris.is_uri(uri) else "/".join([uri.rstrip("/"), *parts])


def absolute(place: str) -> str:
    """Makes a local path absolute, so that workers on this machine find the same file; gives a URI its one spelling.

    Raises:
        UserError: It cannot be meant as it is written.
    """
    if uris.is_uri(place):
        return uris.canonical(place)
    uris.check(place)
    return open_uri(place)[1]


def exists(uri: str) -> bool:
    """Says whether a file or folder is there."""
    filesystem, path = open_uri(uri)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def read_bytes(uri: str) -> bytes:
    """Reads a whole file.

    Raises:
        OSError: It cannot be read.
    """
    filesystem, path = open_uri(uri)
    failed = 0
    while True:
        try:
            with filesystem.open_input_file(path) as file:  # which knows its size: one request for all of it
                return bytes(file.read())
        except OSError as error:
            failed += 1
            if _TOO_SMALL not in str(error) or failed == PatientS3.ATTEMPTS:
                raise
        time.sleep(random.uniform(0, min(2**failed / 2, 20)))


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a whole file atomically, making its folder: a reader sees the old file, or the new one, never a part."""
    filesystem, path = open_uri(uri)
    folder, _, name = path.rpartition("/")
    if filesystem.type_name not in _OBJECT_STORES:  # which have no folders, only objects that stand for them
        filesystem.create_dir(folder, recursive=True)
    if not isinstance(filesystem, fs.LocalFileSystem):  # an object store shows an object only when it is complete
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    part = f"{folder}/.{name[-40:]}.{uuid.uuid4().hex}"  # a name may be as long as a file system lets it be
    Path(part).write_bytes(data)
    Path(part).replace(path)


def write_json(uri: str, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_bytes(uri, json.dumps(value, indent=1, sort_keys=True).encode())


def write_table(uri: str, rows: pa.Table, row_group: int | None = None) -> None:
    """Writes one Parquet file atomically, in groups of `row_group` rows; by default in pyarrow's."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=row_group)
    write_bytes(uri, sink.getvalue().to_pybytes())


def is_garbled(error: Exception) -> bool:
    """Says whether what fails to read a Parquet file's footer is the file, and not the store."""
    return isinstance(error, pa.ArrowInvalid) or _GARBLED in str(error)


def list_files(uri: str, recursive: bool = True) -> Iterator[fs.FileInfo]:
    """Yields the files under a folder, sorted by path; nothing if the folder is not there."""
    filesystem, path = open_uri(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    yield from sorted((info for info in found if info.type == fs.FileType.File), key=lambda info: info.path)


def list_folders(uri: str) -> list[str]:
    """Returns the names of the folders in a folder; none if it is not there."""
    filesystem, path = open_uri(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def remove(uri: str) -> None:
    """Deletes a folder and all in it, if it is there."""
    filesystem, path = open_uri(uri)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        with suppress(FileNotFoundError):  # Google's deletes the objects, and one for the folder, which need not exist
            filesystem.delete_dir(path)


def discard(uri: str) -> None:
    """Deletes a file, if it is there."""
    filesystem, path = open_uri(uri)
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)


def digest(value: Any) -> str:
    """A few letters that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


class Run:
    """A run directory: where each stage's files are, and the record of the settings that made them.

    Attributes:
        uri: The directory, absolute.
    """

    def __init__(self, uri: str) -> None:
        """Opens a run directory, which need not exist yet."""
        self.uri = absolute(uri)

    def path(self, *parts: str) -> str:
        """URI of a file or folder of the run."""
        return join(self.uri, *parts)

    def record(self) -> dict[str, Any]:
        """Contents of `run.json`; empty stages in a new run.

        Raises:
            UserError: The directory is not empty and has no record, or an unreadable one: it is not a run's.
        """
        try:
            if exists(self.path(RECORD)):
                return _parsed(self.path(RECORD))
            filesystem, path = open_uri(self.uri)
            deep = filesystem.type_name == "gcs"  # which lists no folder that only its files make
            found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=deep))
            foreign = any(not info.base_name.startswith(".") for info in found)
        except OSError as error:
            raise UserError(f"run_dir: {self.uri} cannot be read: {first_line(error)}") from error
        if foreign:
            raise UserError(
                f"run_dir: {self.uri} is not empty and has no {RECORD}: it is not a run directory; name another"
            )
        return {
            "stages": {},
            "layout": LAYOUT,
            "versions": {"ddps_ray": __version__} | {name: version(name) for name in _PACKAGES},
        }

    def claim(self, stage: str, settings: dict[str, Any], *, begun: bool = True) -> bool:
        """Reserves a stage for these settings and says whether it has finished with them before.

        Args:
            stage: Name of the stage, e.g. `score` or `distill/ddps/ipc=10`.
            settings: All that its result depends on, as JSON values.
            begun: Whether a stage that has not finished may have left results; if not, new settings replace the old.

        Raises:
            UserError: The stage was begun in this directory with other settings, or the directory is not writable.
        """
        record = self.record()
        settings = json.loads(json.dumps(settings))
        entry = record["stages"].get(stage)
        if entry is None or not (begun or "finished" in entry):
            record["stages"][stage] = {"settings": settings, "begun": _now()}
            record["layout"] = LAYOUT
            try:
                write_json(self.path(RECORD), record)
            except OSError as error:
                raise UserError(f"run_dir: {self.uri} is not writable: {first_line(error)}") from error
            return False
        if changes := list(_differences(entry["settings"], settings)):
            raise UserError(
                f"{self.uri} was made by another configuration: {stage}: {'; '.join(changes[:3])}. "
                "Use another run_dir, or the earlier settings."
            )
        return "finished" in entry

    def variant(self, stage: str, settings: dict[str, Any]) -> str:
        """What a stage is called with these settings: its own name, or with a digest where others have taken that.

        Results of a later setting so lie beside the earlier ones, and cost no other stage.

        Args:
            stage: Name of the stage.
            settings: All that its result depends on, as JSON values.
        """
        text = json.dumps(settings, sort_keys=True)
        entry = self.record()["stages"].get(stage)
        if entry is None or not any(_differences(entry["settings"], json.loads(text))):
            return stage
        return f"{stage}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def finish(self, stage: str, summary: dict[str, Any]) -> None:
        """Records that a claimed stage is complete, with a few figures about it."""
        record = self.record()
        record["stages"][stage] |= {"finished": _now(), "summary": summary}
        write_json(self.path(RECORD), record)

    def reopen(self, stage: str) -> None:
        """Makes a finished stage one that was only begun, with its settings: there is more to do."""
        record = self.record()
        for key in ("finished", "summary"):
            record["stages"][stage].pop(key, None)
        write_json(self.path(RECORD), record)

    def note(self, stage: str, key: str, value: Any) -> None:
        """Records something about a claimed stage that is no setting of it, if it is not there already."""
        record = self.record()
        if record["stages"][stage].get(key) != value:
            record["stages"][stage][key] = value
            write_json(self.path(RECORD), record)

    def summary(self, stage: str) -> dict[str, Any] | None:
        """The figures of a finished stage, or None if it has not finished."""
        entry = self.record()["stages"].get(stage, {})
        return dict(entry["summary"]) if "finished" in entry else None

    def require(self, stage: str, command: str) -> dict[str, Any]:
        """The figures of a stage that must have finished.

        Raises:
            UserError: It has not; the message names the command that does it.
        """
        summary = self.summary(stage)
        if summary is None:
            raise UserError(f"{self.uri} has no finished {stage} stage: run `ddps {command}` first")
        return summary


def _parsed(uri: str) -> dict[str, Any]:
    try:
        record = json.loads(read_bytes(uri))
    except ValueError as error:
        raise UserError(f"{uri} is not readable as a run's record: {error}") from error
    if not isinstance(record, dict) or "stages" not in record:
        raise UserError(f"{uri} is not a run's record: it names no stages")
    if (layout := record.get("layout", 1)) > LAYOUT:
        by = record.get("versions", {}).get("ddps_ray", "a later version")
        raise UserError(
            f"{uri} was written by ddps_ray {by} in layout {layout}; this one, {__version__}, reads up to {LAYOUT}"
        )
    record["stages"] = {_respelled(stage): _with_root(entry) for stage, entry in record["stages"].items()}
    return record


def _respelled(stage: str) -> str:
    """The name of a stage; in one of before URIs had one spelling, that of a URI."""
    kind, slash, place = stage.partition("/")
    return kind + slash + uris.recorded(place) if uris.is_uri(place) else stage


def _with_root(entry: dict[str, Any]) -> dict[str, Any]:
    """A stage's entry, with the one spelling of the data set's URI."""
    settings = entry["settings"]
    if not uris.is_uri(str(settings.get("root"))):
        return entry
    return entry | {"settings": settings | {"root": uris.recorded(settings["root"])}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield f"{key} was {json.dumps(old)}, is now {json.dumps(new)}"
