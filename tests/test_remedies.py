"""One line for a failure that is the user's to mend, none for a bug, and never the advice to delete a whole file."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ddps_ray import storage
from ddps_ray.remedies import lasting_error, may_be_damage, user_error

AGAIN = ", and the same command goes on from here"
RIGHTS = f"permission denied: give this user the right to it{AGAIN}"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, RIGHTS),
        (errno.EPERM, RIGHTS),
        (errno.EROFS, f"its file system is read-only: make it writable{AGAIN}"),
        (errno.EDQUOT, f"the disk quota there is used up: make room{AGAIN}"),
        (errno.ENOSPC, f"no space is left there: make room{AGAIN}"),
        (errno.EIO, "its disk fails to read or write (input/output error): the system's log says more"),
    ],
)
def test_what_the_system_refuses_is_told_with_its_path_as_python_arrow_and_rust_say_it(number: int, said: str) -> None:
    reason = os.strerror(number)
    python = OSError(number, reason, "/runs/a/scores/0.parquet")
    arrow = OSError(f"Failed to open local file '/runs/a/scores/0.parquet'. Detail: [errno {number}] {reason}")
    rust = Exception(f"SafetensorError: '/runs/a/scores/0.parquet': Os {{ code: {number}, message: \"{reason}\" }}")
    for error in (python, arrow, rust):
        assert user_error(error, "/runs/a") == f"/runs/a/scores/0.parquet: {said}"
    part = OSError(number, reason, "/runs/a/scores/.0.parquet.5eed")  # of an atomic write
    assert user_error(part, "/runs/a") == f"/runs/a/scores: {said}"


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory") as caught:
        storage.write_bytes(str(tmp_path / "file" / "a" / "b"), b"x")
    said = user_error(caught.value, str(tmp_path))
    assert said is not None
    assert said.endswith(": a part of this path is a file, not a folder: name another")


def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            storage.write_bytes(str(tmp_path / "scores"), b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert user_error(caught.value, str(tmp_path)) == (
        f"{tmp_path}: files there may not become so large (ulimit -f): raise the limit{AGAIN}"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ray.exceptions.OutOfDiskError("x"), "Ray's memory for objects is full on a node, and so is the disk under"),
        (ray.exceptions.ObjectStoreFullError("x"), "Ray's memory for objects is full on a node: give it more"),
        (ray.exceptions.OutOfMemoryError("x"), "a node has no memory left: take fewer workers at a time"),
        (RuntimeError("failed:\nray.exceptions.OutOfMemoryError: killed"), "a node has no memory left"),
    ],
)
def test_what_ray_has_no_room_for_is_told(error: Exception, said: str) -> None:
    assert (user_error(error) or "").startswith(said)


def test_a_store_that_fails_now_is_told_at_the_end_and_tried_again_before() -> None:
    error = OSError("first\nWhen reading key 'a.parquet': AWS Error SLOW_DOWN during GetObject: Please reduce")
    assert user_error(error) == "When reading key 'a.parquet': AWS Error SLOW_DOWN during GetObject: Please reduce"
    assert lasting_error(error) is None
    assert not may_be_damage(error)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "scores" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": [str(number) for number in range(5000)]}), path, compression="zstd")
    return path


def refusing(error: OSError) -> Callable[..., None]:
    def refused(*_: Any, **__: Any) -> None:
        raise error

    return refused


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (OSError("key 'a.parquet': AWS Error SLOW_DOWN"), "key 'a.parquet': AWS Error SLOW_DOWN"),
        (PermissionError(13, "Permission denied", "/r/a.parquet"), f"/r/a.parquet: {RIGHTS}"),
        (FileNotFoundError(2, "No such file", "/r/a.parquet"), None),
    ],
)
def test_a_file_that_cannot_be_looked_at_is_not_called_damaged(
    shard: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError, said: str | None
) -> None:
    monkeypatch.setattr(pq, "ParquetFile", refusing(refusal))
    assert user_error(pa.ArrowInvalid("a bug"), str(shard.parents[1])) == said


def test_a_bug_where_all_files_are_whole_keeps_its_traceback(shard: Path) -> None:
    for bug in (pa.ArrowInvalid("a bug"), OSError("a bug"), KeyError("Parquet")):
        assert user_error(bug, str(shard.parents[1])) is None


def test_damage_is_found_by_the_driver_and_only_suspected_elsewhere(shard: Path) -> None:
    run_dir = str(shard.parents[1])
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(pa.ArrowInvalid) as caught:
        pq.read_table(shard)
    assert lasting_error(caught.value, run_dir) is None
    assert may_be_damage(caught.value)
    assert (user_error(caught.value, run_dir) or "").startswith(f"{shard} is damaged (")


def test_damage_inside_of_a_file_that_no_error_names_is_said_to_be_somewhere(shard: Path) -> None:
    run_dir = str(shard.parents[1])
    data = shard.read_bytes()
    shard.write_bytes(data[:4] + b"\xff" * 3000 + data[3004:])
    with pytest.raises(OSError, match="thrift") as caught:
        pq.read_table(shard)
    said = user_error(caught.value, run_dir)
    assert said is not None
    assert said.startswith(f"{run_dir}: a Parquet file is damaged inside (Couldn't deserialize thrift: ")
    assert said.endswith(f"`ddps verify {run_dir}` names it if it has scores")
