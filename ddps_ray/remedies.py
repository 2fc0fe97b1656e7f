"""What a person is told of a failure that is theirs to put right: a mistake, a disk, a store, a damaged file."""

import errno
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ddps_ray.errors import UserError, first_line
from ddps_ray.inspection import damage
from ddps_ray.storage import Run

_AGAIN = "and the same command goes on from here"
_REFUSALS = {
    errno.ENOSPC: f"no space is left there: make room, {_AGAIN}",
    errno.EDQUOT: f"the disk quota there is used up: make room, {_AGAIN}",
    errno.EFBIG: f"files there may not become so large (ulimit -f): raise the limit, {_AGAIN}",
    errno.EACCES: f"permission denied: give this user the right to it, {_AGAIN}",
    errno.EPERM: f"permission denied: give this user the right to it, {_AGAIN}",
    errno.EROFS: f"its file system is read-only: make it writable, {_AGAIN}",
    errno.EIO: "its disk fails to read or write (input/output error): the system's log says more",
    errno.ENOTDIR: "a part of this path is a file, not a folder: name another",
}
_SPILLS = "the disk under Ray's temporary folder (/tmp/ray unless it was told otherwise)"
_RAY_REFUSES = {
    "OutOfDiskError": f"Ray's memory for objects is full on a node, and so is {_SPILLS}: make room, {_AGAIN}",
    "ObjectStoreFullError": f"Ray's memory for objects is full on a node: give it more (`ray start`), {_AGAIN}",
    "OutOfMemoryError": f"a node has no memory left: take fewer workers at a time, or a node with more, {_AGAIN}",
}
"""What is told of an error of Ray's own, by its name."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_RAY = re.compile(rf"^(?:ray\.exceptions\.)({'|'.join(_RAY_REFUSES)}): ", re.MULTILINE)
_MISTAKE = re.compile(rf"^{re.escape(f'{UserError.__module__}.{UserError.__qualname__}')}: (.+)$", re.MULTILINE)
_ERRNO = re.compile(r"^.*(?:\[[Ee]rrno |\bOs \{ code: )(\d+).*$", re.MULTILINE)
_PATH = re.compile(r"'([^']*/[^']*)'")
_UNREADABLE = re.compile(r"ArrowInvalid|[Pp]arquet|thrift|[Cc]ompress|[Cc]orrupt|Codec failed|Unexpected end of stream")
_STORE = re.compile(r"AWS Error|google::cloud|GetObjectMetadata")


def user_error(error: BaseException, run_dir: str | None = None, *others: str) -> str | None:
    """Returns the line that tells a user what to put right, if that is what an exception is about; None if it is a bug.

    Args:
        error: An exception, or one that Ray has made of it: where a worker was an actor that died, or ran a function of
            Ray Data, it is there as text only, as a line that begins with its name.
        run_dir: Run directory, if the command has one.
        others: Other folders or URIs that the command writes to.
    """
    return lasting_error(error, run_dir, *others) or _damaged(error, run_dir) or _failing_store(error)


def lasting_error(error: BaseException, run_dir: str | None = None, *others: str) -> str | None:
    """As `user_error`, of failures that another try would not mend, and without a look at any file.

    A store that fails now may answer then. Which file of a run is damaged is for the driver to find out, once, and not
    for each task and worker that meets it; see `may_be_damage`.
    """
    if type(error) is UserError:
        return str(error)
    if lines := _MISTAKE.findall(str(error)):
        return str(lines[-1])
    places = [*others, *([] if run_dir is None else [run_dir])]
    return _refused(error, places) or _refused_by_ray(error)


def may_be_damage(error: BaseException) -> bool:
    """Whether an error, or the text that Ray has made of it, can be that of a damaged Parquet file."""
    said = str(error)
    return not _STORE.search(said) and (isinstance(error, pa.ArrowInvalid) or _UNREADABLE.search(said) is not None)


def _refused(error: BaseException, places: Sequence[str]) -> str | None:
    """What the system refuses, with the path that it names, or else the place that is most likely meant."""
    said = [(int(line[1]), line[0]) for line in _ERRNO.finditer(str(error))]
    if isinstance(error, OSError) and error.errno is not None:
        said.append((error.errno, str(error)))
    for number, line in reversed(said):
        if number in _REFUSALS:
            return f"{_place(number, line, places)}: {_REFUSALS[number]}"
    return None


def _refused_by_ray(error: BaseException) -> str | None:
    names = [*_RAY.findall(str(error)), *(base.__name__ for base in type(error).__mro__)]
    return next((_RAY_REFUSES[name] for name in names if name in _RAY_REFUSES), None)


def _place(number: int, line: str, places: Sequence[str]) -> str:
    if named := _PATH.findall(line):
        folder, _, name = named[-1].rpartition("/")
        return folder if name.startswith(".") else str(named[-1])  # the part file of an atomic write says nothing
    if number in _FULL:
        return _fullest([*places, tempfile.gettempdir()])
    return places[0] if places else "this machine"


def _fullest(places: Sequence[str]) -> str:
    """The place on this machine that has the least space left."""
    return min((place for place in places if "://" not in place), key=_free)


def _free(place: str) -> int:
    path = Path(place).resolve()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def _damaged(error: BaseException, run_dir: str | None) -> str | None:
    """The file of the run that cannot be read, if there is one, or why that cannot be found out."""
    if run_dir is None or not may_be_damage(error):
        return None
    try:
        found = damage.find(Run(run_dir), str(error))
    except OSError as other:
        return _refused(other, [run_dir]) or _failing_store(other)
    if found is None and isinstance(error, OSError) and damage.is_damage(error):  # in a page: Arrow names no file then
        tell = f"`ddps verify {run_dir}` names it if it has scores"
        return f"{run_dir}: a Parquet file is damaged inside ({first_line(error)}): {tell}"
    return found


def _failing_store(error: BaseException) -> str | None:
    """What a store says that refuses or fails."""
    if not isinstance(error, OSError):
        return None
    lines = [line.strip() for line in str(error).splitlines() if _STORE.search(line)]
    return lines[-1].removeprefix("OSError: ") if lines else None
