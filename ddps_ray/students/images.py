"""Decoded square images of a set, once a node: a memory-mapped array on disk that all processes of the node share.

An entry of the cache is a folder, `<name>`, that is there whole or not at all. Beside it lies `<name>.lock`: whoever
decodes holds it alone, whoever uses the entry holds it together with others, and the system lets go of the lock of a
process that dies.
"""

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
from PIL import Image
from pyarrow import fs

from ddps_ray import locks, storage
from ddps_ray.console import Ticker, duration, say
from ddps_ray.errors import BadImage, UserError, first_line
from ddps_ray.sources import locators, parquet
from ddps_ray.sources.locators import Locator
from ddps_ray.sources.reading import read_image

Fit = Callable[[Image.Image], Image.Image]
"""Brings a decoded image to the side in pixels at which it is held."""

PLACE = "DDPS_CACHE"
"""Environment variable: the folder that has the cache, in `images`; by default ~/.cache/ddps_ray."""
LIMIT = "DDPS_CACHE_GB"
"""Environment variable: how large the cache may become, in GB (10⁹ bytes); by default 50."""

_VERSION = 1
_DECODERS = ("pillow", "torchvision")  # another version may give other pixels
_PIXELS, _ABOUT = "pixels.bin", "about.json"
_RUN = 64  # images in a run; two runs are decoded at a time
_TICKS = 15.0
_TRIES = 3
_SPARE = 0.05  # of a disk: Ray spills no objects to one that is fuller
_FULL = "less than 5 % of the disk would be left"
_CGROUP = Path("/sys/fs/cgroup")
_AWAITED = {
    locks.SHARED: "decodes the same images",
    locks.ALONE: "decodes the same images, or uses them still although their files have gone from {target}",
}
"""What another process does for whose lock one waits, by the kind that is wanted."""


@dataclass(frozen=True)
class Images:
    """Decoded images.

    Attributes:
        pixels_NHWC: uint8; black where an image is bad. Writing to it changes no file.
        bad: Index and reason of each image that cannot be used.
        lock: Keeps the entry of the cache from being removed as long as it is open; None if there is none.
    """

    pixels_NHWC: np.ndarray
    bad: dict[int, str]
    lock: BinaryIO | None = None


class _NoRoom(Exception):  # noqa: N818 - it names the disk, not a fault of ours
    """Why the cache takes no entry."""


@contextmanager
def _on_the_disk(folder: Path) -> Iterator[None]:
    """Within it, whatever the disk of the cache refuses is `_NoRoom`."""
    try:
        yield
    except OSError as error:
        raise _NoRoom(f"{folder}: {error.strerror or first_line(error)}") from error


def name(uris: Sequence[str], transform: str, side: int) -> str:
    """The name of a set of decoded images: another if a file, its content or its transform is another.

    Files of this machine are known by size, time and rights, those of a store by size and time.

    Args:
        uris: Where each image is; see `locators`.
        transform: What is done to each decoded image, with all parameters.
        side: Pixels of the result.

    Raises:
        OSError: A store does not answer as it should.
    """
    digest = hashlib.sha256(repr((_VERSION, *map(version, _DECODERS), transform, side)).encode())
    for state in sorted(_states({locators.parse(uri).uri for uri in uris})):
        digest.update(repr(state).encode())
    for uri in uris:
        digest.update(repr(uri).encode())
    return digest.hexdigest()


def load(
    uris: Sequence[str], fit: Fit, side: int, transform: str | None = None, limit: int | None = None
) -> Images | None:
    """Decodes images, or takes them from the cache if any process of this node has decoded them before.

    Where the disk has no room for them, they are held in the memory of this process.

    Args:
        uris: Where each image is; see `locators`.
        fit: Brings each to side×side.
        side: Pixels.
        transform: What `fit` does, with all parameters, as `name` has it; None to leave the cache alone.
        limit: Bytes that may be held in memory if they must; by default half of what is free.

    Returns:
        The images; None if there is no room for them on disk, and they are larger than `limit`.

    Raises:
        UserError: There is no room for them on disk or in memory, and there is no `limit`.
        OSError: A store does not answer as it should.
    """
    needed = 3 * side * side * len(uris)
    why = ""
    if transform is not None and needed:
        try:
            return _from_disk(uris, fit, side, transform)
        except _NoRoom as reason:
            why = f"{reason}: {needed:,} bytes of decoded images"
    if limit is not None and needed > limit:
        if why:
            say(f"{why} are decoded on each access")
        return None
    if limit is None and needed > (free := _free_memory()) // 2:
        raise UserError(
            f"{why or f'{needed:,} bytes of decoded images'}, and memory has {free:,} bytes free, half of which may "
            f"be taken: set {PLACE} to a folder on a disk with room for {needed:,} bytes, and {LIMIT} if it is more"
        )
    if why:
        say(f"{why} are held in memory, and decoded again by each process")
    pixels_NHWC = np.zeros((len(uris), side, side, 3), np.uint8)
    return Images(pixels_NHWC, _decode(uris, fit, pixels_NHWC))


def refusal(needed: int) -> str | None:
    """Why the cache would take no entry of so many bytes, on this machine and if all others went; None if it would."""
    folder = _folder()
    try:
        _check_limit(folder, needed)
        with _on_the_disk(folder):
            there = next(each for each in (folder, *folder.parents) if each.exists())
            others = sum(map(_size, folder.iterdir())) if there == folder else 0
            if needed > _free_disk(there) + others:
                raise _NoRoom(f"{folder}: {_FULL}")
    except _NoRoom as reason:
        return str(reason)
    return None


def threads() -> int:
    """Threads that decode on this machine: one for each CPU of this process, a few more where stores are slow."""
    return min(32, max(8, len(os.sched_getaffinity(0))))


def _folder() -> Path:
    return storage.expanded(os.environ.get(PLACE) or "~/.cache/ddps_ray") / "images"


def _most() -> int:
    """Bytes that the cache may have.

    Raises:
        UserError: What the environment says is no number of GB.
    """
    said = os.environ.get(LIMIT) or "50"
    try:
        gigabytes = float(said)
        if not 0 <= gigabytes < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(f"{LIMIT}: {said!r} is no number of GB, such as 50") from None
    return int(gigabytes * 1e9)


def _states(files: set[str]) -> Iterator[tuple[str, object]]:
    """What is known of the content of each file without reading it."""
    remote: dict[tuple[int, str], fs.FileSystem] = {}
    wanted: dict[str, str] = {}
    for uri in files:
        filesystem, path = storage.open_uri(uri)
        if isinstance(filesystem, fs.LocalFileSystem):
            yield uri, _local_state(path)
        else:
            remote[id(filesystem), path.rpartition("/")[0]] = filesystem
            wanted[path] = uri
    # One request tells of a thousand files; to ask for each would be a thousand.
    folders = [(there, fs.FileSelector(folder, allow_not_found=True)) for (_, folder), there in remote.items()]
    with ThreadPoolExecutor(threads()) as pool:
        for infos in pool.map(lambda each: each[0].get_file_info(each[1]), folders):
            for info in infos:
                if info.path in wanted:
                    yield wanted[info.path], (info.size, info.mtime_ns)


def _local_state(path: str) -> tuple[int, int, int] | None:
    try:
        state = Path(path).stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_mode


def _from_disk(uris: Sequence[str], fit: Fit, side: int, transform: str) -> Images:
    """Opens an entry of the cache, made first if it is not there.

    Raises:
        _NoRoom: There is none for it.
    """
    folder, shape = _folder(), (len(uris), side, side, 3)
    _check_limit(folder, int(np.prod(shape, dtype=np.int64)))  # before a million files are asked for their sizes
    target = folder / name(uris, transform, side)
    with _on_the_disk(target.parent):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = target.with_suffix(".lock").open("a+b")
    _take(lock, locks.SHARED, target)
    for _ in range(_TRIES):
        if (images := _open(target, shape, lock)) is not None:
            with suppress(OSError):
                os.utime(target)  # the time of its last use
            return images
        _take(lock, locks.ALONE, target)
        if _open(target, shape, lock) is None:  # no other process has been faster
            _build(target, uris, fit, shape)
        _take(lock, locks.SHARED, target)  # between the two another process can have removed it
    raise _NoRoom(f"{target.parent}: what is written there cannot be mapped")


def _take(lock: BinaryIO, kind: int, target: Path) -> None:
    """Waits for the lock of an entry, and says so.

    Raises:
        _NoRoom: The file system gives no locks.
    """
    with _on_the_disk(target.parent):
        locks.take(lock, kind, _AWAITED[kind].format(target=target))


def _open(target: Path, shape: tuple[int, ...], lock: BinaryIO) -> Images | None:
    """Opens an entry; None if it is not there, or not whole."""
    try:
        bad = {int(index): str(reason) for index, reason in json.loads((target / _ABOUT).read_bytes())["bad"].items()}
        if (target / _PIXELS).stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        return Images(np.memmap(target / _PIXELS, np.uint8, "c", shape=shape), bad, lock)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _build(target: Path, uris: Sequence[str], fit: Fit, shape: tuple[int, ...]) -> None:
    """Decodes an entry, whose lock is held; what a process has left that was killed meanwhile is cleared away."""
    part = target.with_suffix(".part")
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(part, ignore_errors=True)
    needed = int(np.prod(shape, dtype=np.int64))
    try:
        with _on_the_disk(target.parent):
            _make_room(target.parent, needed)
            pixels_NHWC = _allocate(part, shape, needed)
        bad = _decode(uris, fit, pixels_NHWC)  # whose errors are those of a store
        with _on_the_disk(target.parent):
            pixels_NHWC.flush()  # or a machine that fails after the renaming would leave black images
            with (part / _ABOUT).open("w") as file:
                json.dump({"bad": bad, "images": len(uris), "side": shape[1]}, file)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _allocate(part: Path, shape: tuple[int, ...], needed: int) -> np.memmap:
    """A file of zeros that has its blocks: a disk that is full would else kill the process that writes to its map."""
    part.mkdir()
    with (part / _PIXELS).open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, needed)
    return np.memmap(part / _PIXELS, np.uint8, "r+", shape=shape)


def _make_room(folder: Path, needed: int) -> None:
    """Removes the entries that were used longest ago, and are not now, until there is room for `needed` bytes.

    Raises:
        _NoRoom: There is not, whatever is removed.
    """
    limit = _check_limit(folder, needed)
    sizes = {entry: _size(entry) for entry in folder.iterdir() if entry.is_dir()}
    if needed > _free_disk(folder) + sum(sizes.values()):
        raise _NoRoom(f"{folder}: {_FULL}")
    for entry in sorted(sizes, key=_used):
        if sum(sizes.values()) + needed <= limit and needed <= _free_disk(folder):
            return
        if _remove(entry):
            sizes.pop(entry)
    if needed > _free_disk(folder):
        raise _NoRoom(f"{folder}: {_FULL}")
    if sum(sizes.values()) + needed > limit:
        raise _NoRoom(f"{folder}: more than {LIMIT}, which is {limit / 1e9:g}, beside those in use")


def _check_limit(folder: Path, needed: int) -> int:
    """Returns the bytes that the cache may have; errors as in `_make_room`."""
    if needed > (limit := _most()):
        raise _NoRoom(f"{folder}: more than {LIMIT}, which is {limit / 1e9:g}")
    return limit


def _size(entry: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0


def _used(entry: Path) -> float:
    with suppress(OSError):
        return entry.stat().st_mtime
    return 0.0


def _remove(entry: Path) -> bool:
    """Removes an entry, unless a process uses or makes it."""
    with suppress(OSError), entry.with_suffix(".lock").open("a+b") as lock:
        if locks.take_at_once(lock, locks.ALONE):
            shutil.rmtree(entry)
            return True
    return False


def _free_disk(folder: Path) -> int:
    usage = shutil.disk_usage(folder)
    return int(usage.free - _SPARE * usage.total)


def _free_memory() -> int:
    """Bytes that this process may still take, also in a container that has fewer than its machine."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, most - used + int(counts.get("inactive_file", 0)))
    return max(free, 0)


def _decode(uris: Sequence[str], fit: Fit, pixels_NHWC: np.ndarray) -> dict[int, str]:
    """Decodes images into an array, and returns index and reason of the bad ones."""
    bad: dict[int, str] = {}

    def one(index: int) -> None:
        try:
            pixels_NHWC[index] = np.asarray(fit(read_image(uris[index])))
        except BadImage as error:
            bad[index] = str(error)

    ticker, begun, done = Ticker(_TICKS), time.monotonic(), 0
    ahead: deque[list[Future[None]]] = deque()
    with ThreadPoolExecutor(threads()) as pool:
        for run in _runs(uris):
            ahead.append([pool.submit(one, index) for index in run])
            if len(ahead) < 2:
                continue
            done += _wait(ahead.popleft())
            if ticker.due():
                left = (time.monotonic() - begun) / done * (len(uris) - done)
                say(f"decoded {done:,} of {len(uris):,} images, about {duration(left)} left")
        for futures in ahead:
            _wait(futures)
    return dict(sorted(bad.items()))


def _wait(futures: list[Future[None]]) -> int:
    for future in futures:
        future.result()
    return len(futures)


def _runs(uris: Sequence[str]) -> Iterator[list[int]]:
    """Indices of images that are read at a time, in the order of files and of places in them.

    Two runs have rows of at most two row groups of Parquet files, fewer than are kept: each is read once.
    """
    places = [locators.parse(uri) for uri in uris]
    order = sorted(range(len(uris)), key=lambda index: (places[index].uri, places[index].start))
    for _, indices in groupby(order, key=lambda index: _group(places[index])):
        together = list(indices)
        yield from (together[first : first + _RUN] for first in range(0, len(together), _RUN))


def _group(place: Locator) -> tuple[str, int] | None:
    """The row group that an image is in; None for what is read by itself."""
    if place.kind != "row":
        return None
    try:
        return place.uri, parquet.group(place.uri, place.start, place.column)
    except (BadImage, FileNotFoundError, PermissionError):  # which reading it says again, of each image
        return place.uri, -1
