"""Shards and checkpoints after a kill at any moment: together again, and Ray's own filter goes by just the shards."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig, IdColumnCheckpointManager

from ddps_ray import shards, storage
from ddps_ray.errors import UserError
from ddps_ray.shards import Footers, Shard
from tests.selection.rows import SCHEMA, failed, score_table, scored

FIRST, SECOND = "5eed_000000", "5eed_000001"
"""Two commits, as Ray names them: of a write, and of a task in it."""
GARBLED_FOOTER = b"PAR1" + b"\xff" * 32 + (32).to_bytes(4, "little") + b"PAR1"


def write_shard(run: Path, commit: str, ids: str, bad: str = "") -> Path:
    """A shard of rows with these one-letter ids, those of `bad` with an error."""
    rows = [failed(letter) if letter in bad else scored(letter, 0, 0, 0.5) for letter in ids]
    path = run / "scores" / f"{commit}-0.parquet"
    storage.write_table(str(path), score_table(rows), shards.ROWS_PER_GROUP)
    return path


def write_checkpoint(run: Path, name: str, ids: str) -> Path:
    path = run / "checkpoints" / f"{name}.parquet"
    storage.write_table(str(path), pa.table({"image_id": list(ids)}))
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def reconcile(run: Path) -> None:
    shards.reconcile(str(run / "scores"), str(run / "checkpoints"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def ids_in(folder: Path) -> str:
    """All ids of a folder's files, in order: one that is there twice is here twice."""
    tables = [pq.read_table(folder / name, columns=["image_id"]) for name in names(folder)]
    return "".join(sorted(letter for table in tables for letter in table["image_id"].to_pylist()))


def filtered_by_ray(run: Path) -> str:
    """The ids that Ray's own filter would skip; on the way it deletes the shards whose checkpoints are pending."""
    config = CheckpointConfig("image_id", str(run / "checkpoints"), delete_checkpoint_on_success=False)
    manager = IdColumnCheckpointManager(checkpoint_config=config, data_context=DataContext.get_current())
    ids, _ = manager.load_checkpoint(str(run / "scores"))
    return "" if ids is None else "".join(ray.get(ids).tolist())


def nothing_killed(run: Path, commit: str, ids: str) -> None:
    pass


def pending_alone(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, f"{commit}.pending", ids)


def pending_with_a_cut_shard(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, f"{commit}.pending", ids)
    cut(write_shard(run, commit, ids))


def pending_with_an_empty_shard(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, f"{commit}.pending", ids)
    write_shard(run, commit, ids).write_bytes(b"")


def pending_with_a_whole_shard(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, f"{commit}.pending", ids)
    write_shard(run, commit, ids)


def copied_but_not_yet_moved(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, commit, ids)
    pending_with_a_whole_shard(run, commit, ids)


def committed_without_shard(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, commit, ids)


def committed_with_a_cut_shard(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, commit, ids)
    cut(write_shard(run, commit, ids))


def committed_with_a_garbled_footer(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, commit, ids)
    write_shard(run, commit, ids).write_bytes(GARBLED_FOOTER)


def committed_with_more_ids_than_rows(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, commit, ids + "~")
    write_shard(run, commit, ids)


def shard_without_checkpoint(run: Path, commit: str, ids: str) -> None:
    write_shard(run, commit, ids)


def cut_checkpoint(run: Path, commit: str, ids: str) -> None:
    cut(write_checkpoint(run, commit, ids))
    write_shard(run, commit, ids)


def garbled_checkpoint(run: Path, commit: str, ids: str) -> None:
    write_checkpoint(run, commit, ids).write_bytes(GARBLED_FOOTER)
    write_shard(run, commit, ids)


def parts_of_atomic_writes(run: Path, commit: str, ids: str) -> None:
    for folder in ("scores", "checkpoints"):
        (run / folder / f".{commit}-0.parquet.0123abcd").write_bytes(b"PAR1")


State = Callable[[Path, str, str], None]
STATES: dict[State, bool] = {
    nothing_killed: False,
    pending_alone: False,
    pending_with_a_cut_shard: False,
    pending_with_an_empty_shard: False,
    pending_with_a_whole_shard: True,
    copied_but_not_yet_moved: True,
    committed_without_shard: False,
    committed_with_a_cut_shard: False,
    committed_with_a_garbled_footer: False,
    committed_with_more_ids_than_rows: True,
    shard_without_checkpoint: True,
    cut_checkpoint: True,
    garbled_checkpoint: True,
    parts_of_atomic_writes: False,
}
"""What a kill can leave of a commit of some images, and whether their scores are safe then."""


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_whatever_was_killed_checkpoints_are_the_shards(state: State, tmp_path: Path) -> None:
    kept = write_shard(tmp_path, FIRST, "abc"), write_checkpoint(tmp_path, FIRST, "abc")
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept]
    state(tmp_path, SECOND, "def")
    reconcile(tmp_path)
    commits, ids = ([FIRST, SECOND], "abcdef") if STATES[state] else ([FIRST], "abc")
    assert names(tmp_path / "scores") == [f"{commit}-0.parquet" for commit in commits]
    assert names(tmp_path / "checkpoints") == [f"{commit}.parquet" for commit in commits]
    assert ids_in(tmp_path / "scores") == ids_in(tmp_path / "checkpoints") == ids
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept] == before


@pytest.mark.usefixtures("ray_session")
def test_rays_own_filter_goes_by_just_the_shards(tmp_path: Path) -> None:
    safe = ""
    for number, (state, kept) in enumerate(STATES.items()):
        ids = chr(ord("A") + 2 * number) + chr(ord("B") + 2 * number)
        state(tmp_path, f"5eed_{number:06d}", ids)
        safe += ids if kept else ""
    assert safe == "IJKLSTUVWXYZ"
    reconcile(tmp_path)
    assert filtered_by_ray(tmp_path) == safe
    assert ids_in(tmp_path / "scores") == ids_in(tmp_path / "checkpoints") == safe, "Ray deleted a shard"


@pytest.mark.usefixtures("ray_session")
def test_without_shards_nothing_is_safe(tmp_path: Path) -> None:
    reconcile(tmp_path)
    assert filtered_by_ray(tmp_path) == ""
    (tmp_path / "scores").mkdir()
    write_checkpoint(tmp_path, FIRST, "abc")
    reconcile(tmp_path)
    assert names(tmp_path / "checkpoints") == []
    assert filtered_by_ray(tmp_path) == ""


def test_a_file_that_is_no_score_shard_is_named_and_nothing_is_deleted(tmp_path: Path) -> None:
    cut(write_shard(tmp_path, FIRST, "abc"))
    write_checkpoint(tmp_path, SECOND, "def")
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "scores" / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet is not a score shard"):
        reconcile(tmp_path)
    assert names(tmp_path / "scores") == [f"{FIRST}-0.parquet", "other.parquet"]
    assert names(tmp_path / "checkpoints") == [f"{SECOND}.parquet"]


def test_footers_tell_rows_and_errors_and_what_is_not_whole(tmp_path: Path) -> None:
    first = write_shard(tmp_path, FIRST, "abcde", bad="bd")
    second = write_shard(tmp_path, SECOND, "fg")
    whole = second.read_bytes()
    cut(second)
    (tmp_path / "scores" / ".part.parquet").write_bytes(b"PAR1")
    footers = Footers(str(tmp_path / "scores"))
    assert footers.look() == ([Shard(str(first), 5, 2)], [str(second)])
    second.write_bytes(whole)
    assert footers.look() == ([Shard(str(first), 5, 2), Shard(str(second), 2, 0)], [])
    first.unlink()
    assert footers.look() == ([Shard(str(second), 2, 0)], [])


def test_footers_are_read_once(tmp_path: Path) -> None:
    first = write_shard(tmp_path, FIRST, "abc")
    footers = Footers(str(tmp_path / "scores"))
    footers.look()
    first.write_bytes(b"no longer a shard")
    second = write_shard(tmp_path, SECOND, "d", bad="d")
    assert footers.look() == ([Shard(str(first), 3, 0), Shard(str(second), 1, 1)], [])


def test_footers_of_a_folder_that_is_not_there_are_none(tmp_path: Path) -> None:
    assert Footers(str(tmp_path / "absent")).look() == ([], [])


def test_errors_are_counted_over_all_row_groups(tmp_path: Path) -> None:
    rows = [
        failed(f"{number:03d}") if number % 100 == 0 else scored(f"{number:03d}", 0, 0, 0.5) for number in range(301)
    ]
    path = tmp_path / "scores" / f"{FIRST}-0.parquet"
    storage.write_table(str(path), score_table(rows), shards.ROWS_PER_GROUP)
    assert pq.read_metadata(path).num_row_groups == 3
    assert Footers(str(tmp_path / "scores")).look() == ([Shard(str(path), 301, 4)], [])


def test_failed_rows_are_dropped_and_their_images_are_free_again(tmp_path: Path) -> None:
    mixed = write_shard(tmp_path, FIRST, "abc", bad="b")
    only_bad = write_shard(tmp_path, SECOND, "de", bad="de")
    sound = write_shard(tmp_path, "5eed_000002", "fg")
    reconcile(tmp_path)
    before = sound.read_bytes(), sound.stat().st_mtime_ns
    assert shards.drop_failed(str(tmp_path / "scores")) == 3
    assert pq.read_table(mixed).equals(score_table([scored("a", 0, 0, 0.5), scored("c", 0, 0, 0.5)]))
    assert pq.read_schema(mixed).equals(SCHEMA)
    assert not only_bad.exists()
    assert (sound.read_bytes(), sound.stat().st_mtime_ns) == before
    # A crash here leaves checkpoints of rows that are gone; the next job's reconcile sees to it.
    assert ids_in(tmp_path / "checkpoints") == "abcdefg"
    reconcile(tmp_path)
    assert ids_in(tmp_path / "checkpoints") == ids_in(tmp_path / "scores") == "acfg"
    assert shards.drop_failed(str(tmp_path / "scores")) == 0


def test_a_crash_amid_dropping_leaves_what_the_next_attempt_finishes(tmp_path: Path) -> None:
    write_shard(tmp_path, FIRST, "ab", bad="b")
    write_shard(tmp_path, SECOND, "cd", bad="d")
    reconcile(tmp_path)
    write_shard(tmp_path, FIRST, "a")  # as far as `drop_failed` came
    (tmp_path / "scores" / f".{SECOND}-0.parquet.0123abcd").write_bytes(b"PAR1")
    reconcile(tmp_path)
    assert ids_in(tmp_path / "checkpoints") == ids_in(tmp_path / "scores") == "acd"
    assert shards.drop_failed(str(tmp_path / "scores")) == 1
    reconcile(tmp_path)
    assert ids_in(tmp_path / "checkpoints") == ids_in(tmp_path / "scores") == "ac"


def test_the_first_row_of_an_image_stays_unless_it_has_an_error(tmp_path: Path) -> None:
    paths = [
        write_shard(tmp_path, FIRST, "abc", bad="b"),
        write_shard(tmp_path, SECOND, "bcd", bad="d"),
        write_shard(tmp_path, "5eed_000002", "acd", bad="acd"),
        write_shard(tmp_path, "5eed_000003", "e"),
    ]
    reconcile(tmp_path)
    untouched = paths[3].stat().st_mtime_ns
    assert shards.drop_repeated(str(tmp_path / "scores"), [str(path) for path in paths]) == 5
    left = {path.name: pq.read_table(path)["image_id"].to_pylist() for path in paths if path.exists()}
    assert left == {paths[0].name: ["a", "c"], paths[1].name: ["b", "d"], paths[3].name: ["e"]}
    assert all(pq.read_schema(path).equals(SCHEMA) for path in paths[:2])
    assert paths[3].stat().st_mtime_ns == untouched
    reconcile(tmp_path)
    assert ids_in(tmp_path / "checkpoints") == ids_in(tmp_path / "scores") == "abcde"


def test_rows_that_are_there_once_are_not_rewritten(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path, FIRST, "ab"), write_shard(tmp_path, SECOND, "cd", bad="d")]
    before = [path.stat() for path in paths]
    assert shards.drop_repeated(str(tmp_path / "scores"), [str(path) for path in paths]) == 0
    assert [path.stat() for path in paths] == before
