"""The cache of decoded images: decoded once, by one process, whole or not at all, and never the wrong ones."""

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import huggingface, locators
from ddps_ray.storage import Run
from ddps_ray.students import data, images, sets
from tests.faults.nodes import until
from tests.sources.datasets import hf_table, tar
from tests.stores.conftest import Store
from tests.stores.flaky import Flaky
from tests.students import inputs

SIDE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("DDPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDPS_CACHE_GB", raising=False)
    return tmp_path / "cache" / "images"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Twenty images of one colour each."""
    (tmp_path / "files").mkdir()
    return [put(tmp_path / "files" / f"{n:02d}.png", n) for n in range(20)]


def colour(n: int) -> tuple[int, int, int]:
    return (7 * n + 1) % 256, 255 - n, (n * n) % 256


def encoded(n: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), colour(n)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, n: int) -> str:
    path.write_bytes(encoded(n))
    return str(path)


def fit(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE))


def load(uris: list[str], transform: str = "resize 8") -> images.Images:
    found = images.load(uris, fit, SIDE, transform)
    assert found is not None
    return found


def colours(found: images.Images) -> list[tuple[int, ...]]:
    """The colour of each image, all of whose pixels are alike."""
    assert (found.pixels_NHWC == found.pixels_NHWC[:, :1, :1]).all()
    return [tuple(pixel) for pixel in found.pixels_NHWC[:, 0, 0].tolist()]


def spoil(file: str, *, seen: bool) -> None:
    """Makes a file one that cannot be decoded, with or without another time."""
    path, before = Path(file), Path(file).stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + seen * 1_000_000_000))


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_a_second_load_decodes_nothing(files: list[str]) -> None:
    assert colours(load(files)) == [colour(n) for n in range(20)]
    for file in files:
        spoil(file, seen=False)
    again = load(files)
    assert colours(again) == [colour(n) for n in range(20)]
    assert again.bad == {}


def test_validation_is_decoded_once_a_node(scenes: Path, tmp_path: Path) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    classes = data.class_ids(run, "val")
    ((before, labels),) = data.load_validation(run, "val", classes, 16).in_order(100)
    kept = Path(os.environ["DDPS_CACHE"], "images")
    made = {path: path.stat().st_ino for path in kept.glob("*/pixels.bin")}
    ((after, _),) = data.load_validation(run, "val", classes, 16).in_order(100)
    assert len(made) == 1
    assert next(iter(made)).stat().st_size == 60 * 16 * 16 * 3
    assert {path: path.stat().st_ino for path in kept.glob("*/pixels.bin")} == made
    assert np.array_equal(before, after)
    assert before.shape == (60, 3, 16, 16)
    assert labels.bincount().tolist() == [6] * 10


@pytest.mark.parametrize("change", ["content", "gone", "rights", "order", "transform"])
def test_what_is_not_the_same_is_decoded_again(files: list[str], change: str, cache: Path) -> None:
    load(files)
    transform = "resize 8"
    if change == "content":
        put(Path(files[3]), 77)
        os.utime(files[3], (0, 0))
    elif change == "gone":
        Path(files[3]).unlink()
    elif change == "rights":
        Path(files[3]).chmod(0o600 if Path(files[3]).stat().st_mode & 0o077 else 0o644)
    elif change == "order":
        files.reverse()
    else:
        transform = "resize 8, mirrored"
    wanted: list[tuple[int, ...]] = [colour(int(Path(file).stem)) for file in files]
    if change in ("content", "gone"):
        wanted[3] = colour(77) if change == "content" else (0, 0, 0)
    found = load(files, transform)
    assert colours(found) == wanted
    assert list(found.bad) == ([3] if change == "gone" else [])
    assert len(entries(cache)) == 2


def test_bad_images_are_remembered_with_their_reasons_until_they_are_mended(files: list[str]) -> None:
    spoil(files[4], seen=True)
    Path(files[9]).unlink()
    first, second = load(files), load(files)
    assert list(first.bad) == [4, 9]
    assert first.bad == second.bad
    assert "FileNotFoundError" in first.bad[9]
    put(Path(files[4]), 4)
    put(Path(files[9]), 9)
    mended = load(files)
    assert mended.bad == {}
    assert colours(mended) == [colour(n) for n in range(20)]


def test_what_is_written_to_the_images_stays_in_the_process(files: list[str]) -> None:
    load(files).pixels_NHWC[:] = 3
    assert colours(load(files)) == [colour(n) for n in range(20)]


@pytest.mark.parametrize("damage", ["short", "no list", "no pixels", "garbled list"])
def test_a_damaged_entry_is_made_again(files: list[str], cache: Path, damage: str) -> None:
    load(files)
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    if damage == "short":
        os.truncate(entry / "pixels.bin", 100)
    elif damage == "garbled list":
        (entry / "about.json").write_text('["bad"')
    else:
        (entry / ("about.json" if damage == "no list" else "pixels.bin")).unlink()
    assert colours(load(files)) == [colour(n) for n in range(20)]


class Process:
    """One that decodes; see `tests.students.decoder`."""

    def __init__(self, folder: Path, **wanted: object) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "wanted.json").write_text(json.dumps({"side": SIDE, **wanted}))
        command = [sys.executable, "-m", "tests.students.decoder", str(folder / "wanted.json")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def result(self) -> tuple[dict[str, object], str]:
        """What it found, and all that it said."""
        said, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, said
        return json.loads(said.splitlines()[-1]), said


def digest(numbers: range) -> str:
    pixels = np.array([colour(n) for n in numbers], np.uint8)[:, None, None]
    return hashlib.sha256(np.broadcast_to(pixels, (len(numbers), SIDE, SIDE, 3)).tobytes()).hexdigest()


class Counting(Flaky):
    """A proxy before the store that harms nothing."""

    def read(self, ending: str) -> Counter[str]:
        """How many times each file that ends so was read from."""
        gets = {request.partition("?")[0]: times for request, times in self.attempts.items() if request[:3] == "GET"}
        return Counter({request: times for request, times in gets.items() if request.endswith(ending)})


@contextmanager
def counting(store: Store) -> Iterator[Counting]:
    with Counting(store.address, share=0, seed=0) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


def test_two_processes_at_the_same_time_read_each_image_once(store: Store, tmp_path: Path, cache: Path) -> None:
    for n in range(20):
        storage.write_bytes(store.uri(f"twice/{n:02d}.png"), encoded(n))
    with counting(store) as proxy:
        gate, marker = tmp_path / "gate", tmp_path / "marker"
        os.mkfifo(gate)
        uris = [store.uri(f"twice/{n:02d}.png", proxy.address) for n in range(20)]
        first = Process(tmp_path / "first", uris=uris, gate=str(gate), marker=str(marker))
        until(marker.exists, "the first process reads")
        second = Process(tmp_path / "second", uris=uris)
        said = iter(second.process.stdout or ())
        assert "waiting for another process" in next(said)
        gate.write_bytes(b"go on")
        found = [first.result()[0], json.loads(list(said)[-1])]
        assert second.process.wait(60) == 0
        assert [each["digest"] for each in found] == [digest(range(20))] * 2
        assert sorted(proxy.read(".png").values()) == [1] * 20
        storage.write_bytes(store.uri("twice/05.png"), encoded(33) + b"tail")
        changed, _ = Process(tmp_path / "third", uris=uris).result()
        assert changed["digest"] != digest(range(20)), "what changed in the store is read again"
    assert len(entries(cache)) == 2


def test_a_process_killed_while_it_decodes_leaves_nothing_half(files: list[str], tmp_path: Path, cache: Path) -> None:
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    os.mkfifo(gate)
    many = files * 20
    process = Process(tmp_path / "killed", uris=many, after=250, marker=str(marker), gate=str(gate))
    until(marker.exists, "images are decoded")
    process.process.send_signal(signal.SIGKILL)
    process.process.wait()
    assert [name.endswith(".part") for name in entries(cache)] == [True], "it was killed while it decoded"
    found = load(many)
    assert colours(found) == [colour(n) for n in range(20)] * 20
    assert [name.endswith(".part") for name in entries(cache)] == [False]


def test_row_groups_of_a_shuffled_parquet_file_are_read_once_each(store: Store, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(200).tolist()
    cells: list[dict[str, object] | None] = [{"bytes": encoded(n), "path": f"{n:03d}.png"} for n in order]
    table = hf_table(cells, [n % 2 for n in order], ["ape", "bee"])
    for part in range(2):
        pq.write_table(table.slice(100 * part, 100), tmp_path / "x.parquet", row_group_size=10)
        storage.write_bytes(
            store.uri(f"hub/data/val-{part:05d}-of-00002.parquet"), (tmp_path / "x.parquet").read_bytes()
        )
    groups = 2 * 10
    with counting(store) as proxy:
        listed = huggingface.list_images(store.uri("hub", proxy.address), ["val"]).splits["val"]
        uris = listed.sort_by("image_id")["uri"].to_pylist()
        numbers = [order[locators.parse(uri).start + 100 * ("val-00001" in uri)] for uri in uris]
        assert [locators.parse(uri).start for uri in uris[:20]] != sorted(
            locators.parse(uri).start for uri in uris[:20]
        )
        before = proxy.read(".parquet").total()
        assert colours(load(uris)) == [colour(n) for n in numbers]
        reads = proxy.read(".parquet").total() - before
        assert load(uris).bad == {}
        assert proxy.read(".parquet").total() - before == reads, "a second time nothing is read"
    footers = 2
    assert reads == groups + footers


def test_rows_and_members_among_whole_files(files: list[str], tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [encoded(30), encoded(31), b"no image"]}), tmp_path / "x.parquet")
    tar(tmp_path / "x.tar", {"a.png": encoded(40)})
    at, size = 512, len(encoded(40))
    parquet, text = str(tmp_path / "x.parquet"), str(tmp_path / "text.parquet")
    Path(text).write_text("no Parquet")
    uris = [
        locators.row(parquet, 1),
        files[5],
        locators.part(str(tmp_path / "x.tar"), "bytes", at, size),
        locators.row(parquet, 0),
        locators.row(parquet, 2),
        locators.row(parquet, 9),
        locators.row(text, 0),
        locators.row(str(tmp_path / "absent.parquet"), 0),
        files[2],
    ]
    found = load(uris)
    black = (0, 0, 0)
    wanted = [colour(31), colour(5), colour(40), colour(30), black, black, black, black, colour(2)]
    assert colours(found) == wanted
    assert list(found.bad) == [4, 5, 6, 7]
    assert "past the end" in found.bad[5]
    assert "FileNotFoundError" in found.bad[7]


ENTRY = 20 * SIDE * SIDE * 3


def test_least_recently_used_entries_go_first_and_never_one_in_use(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPS_CACHE_GB", str(3.5 * ENTRY / 1e9))
    names = {transform: images.name(files, transform, SIDE) for transform in "abcde"}
    used = load(files, "a")
    for age, transform in ((30, "b"), (40, "c")):
        load(files, transform)
        os.utime(cache / names[transform], (age, age))
    os.utime(cache / names["a"], (10, 10))
    load(files, "b")  # which makes c older than b
    os.utime(cache / names["a"], (10, 10))
    load(files, "d")
    assert entries(cache) == sorted(names[transform] for transform in "abd")
    assert colours(used) == [colour(n) for n in range(20)]
    del used
    os.utime(cache / names["a"], (10, 10))
    load(files, "e")
    assert entries(cache) == sorted(names[transform] for transform in "bde")


def test_what_a_killed_process_left_goes_when_room_is_wanted(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "0123.part").mkdir(parents=True)
    (cache / "0123.part" / "pixels.bin").write_bytes(bytes(ENTRY))
    os.utime(cache / "0123.part", (10, 10))
    monkeypatch.setenv("DDPS_CACHE_GB", str(1.5 * ENTRY / 1e9))
    load(files)
    assert entries(cache) == [images.name(files, "resize 8", SIDE)]


@pytest.mark.parametrize("why", ["limit", "folder is a file"])
def test_without_room_on_disk_they_are_held_in_memory(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    if why == "limit":
        monkeypatch.setenv("DDPS_CACHE_GB", "0")
    else:
        cache.parent.write_text("in the way")
    found = load(files)
    assert colours(found) == [colour(n) for n in range(20)]
    assert f"{ENTRY:,} bytes of decoded images are held in memory" in capsys.readouterr().out
    assert not cache.is_dir() or entries(cache) == []


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_disk_that_gives_no_lock_costs_no_process(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: int
) -> None:
    asked, flock = itertools.count(1), fcntl.flock

    def refusing(file: BinaryIO, kind: int) -> None:
        if next(asked) == fails:  # to look, to decode, and to use what has been decoded
            raise OSError(errno.ENOLCK, "No locks available")
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", refusing)
    assert colours(load(files)) == [colour(n) for n in range(20)]
    assert f"{cache}: No locks available: {ENTRY:,} bytes of decoded images are held in mem" in capsys.readouterr().out
    assert next(asked) == fails + 1


def test_what_is_in_the_place_of_an_entry_costs_no_process(
    files: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir(parents=True)
    (cache / images.name(files, "resize 8", SIDE)).write_text("in the way")
    assert colours(load(files)) == [colour(n) for n in range(20)]
    assert "are held in memory" in capsys.readouterr().out
    assert entries(cache) == []


def test_who_waits_for_images_whose_files_are_gone_is_told(files: list[str], tmp_path: Path, cache: Path) -> None:
    used = load(files)
    (entry,) = entries(cache)
    shutil.rmtree(cache / entry)  # as what clears temporary folders does
    second = Process(tmp_path / "second", uris=files)
    said = iter(second.process.stdout or ())
    assert f"uses them still although their files have gone from {cache / entry}" in next(said)
    assert colours(used) == [colour(n) for n in range(20)]
    del used
    assert json.loads(list(said)[-1]) == {"digest": digest(range(20)), "bad": {}, "kind": "memmap"}
    assert second.process.wait(60) == 0


def test_a_disk_that_refuses_the_file_costs_no_process(files: list[str], tmp_path: Path, cache: Path) -> None:
    found, said = Process(tmp_path / "refused", uris=files, file_limit=ENTRY - 1).result()
    assert found == {"digest": digest(range(20)), "bad": {}, "kind": "ndarray"}
    assert "held in memory" in said
    assert entries(cache) == []
    found, _ = Process(tmp_path / "allowed", uris=files, file_limit=ENTRY).result()
    assert found == {"digest": digest(range(20)), "bad": {}, "kind": "memmap"}


def test_what_the_cache_would_refuse_is_known_before(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert images.refusal(1000) is None
    assert not cache.exists(), "to ask makes no folder"
    monkeypatch.setenv("DDPS_CACHE_GB", "1")
    assert images.refusal(10**9) is None
    assert images.refusal(10**9 + 1) == f"{cache}: more than DDPS_CACHE_GB, which is 1"
    monkeypatch.setenv("DDPS_CACHE_GB", "1000000000")
    assert images.refusal(10**17) == f"{cache}: less than 5 % of the disk would be left"
    load(files)
    usage = shutil.disk_usage(cache)._replace(total=ENTRY, free=ENTRY // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert images.refusal(ENTRY) is None, "what is there can go"
    assert images.refusal(2 * ENTRY) is not None


def test_without_room_anywhere_the_user_is_told_of_the_bytes(files: list[str]) -> None:
    side = 1_000_000
    with pytest.raises(UserError) as told:
        images.load(files, fit, side, "huge")
    assert f"room for {20 * side * side * 3:,} bytes" in str(told.value)
    assert "set DDPS_CACHE to" in str(told.value)
    assert "\n" not in str(told.value)
    assert images.load(files, fit, side, "huge", limit=1 << 30) is None


@pytest.mark.parametrize("said", ["fifty", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_told(files: list[str], monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("DDPS_CACHE_GB", said)
    with pytest.raises(UserError, match=f"DDPS_CACHE_GB: '{said}' is no number of GB"):
        load(files)


def test_training_images_without_room_are_decoded_on_access(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = inputs.indexed(tmp_path / "run", scenes)
    classes = data.class_ids(run, "train")
    ((kept, labels),) = data.load_training(run, "train", classes, 16).in_order(200)
    monkeypatch.setenv("DDPS_CACHE_GB", "0")
    monkeypatch.setattr(data, "MEMORY_LIMIT", 1000)
    streamed = data.load_training(run, "train", classes, 16)
    ((decoded, again),) = streamed.in_order(200)
    assert np.array_equal(kept, decoded)
    assert labels.tolist() == again.tolist()
    assert kept.shape == (120, 3, 16, 16)


def test_a_distilled_set_made_again_is_read_again(scenes: Path, tmp_path: Path) -> None:
    run = Run(inputs.indexed(tmp_path / "run", scenes).uri)
    classes = data.class_ids(run, "train")[:2]
    folder = inputs.distilled(run, scenes, "ddps", ipc=1, classes=classes, slots=4)
    ((before, _),) = sets.load_distilled(folder, classes, 64).pictures.in_order(9)
    file = next((Path(folder) / "train" / classes[1]).glob("*.png"))
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file)
    ((after, _),) = sets.load_distilled(folder, classes, 64).pictures.in_order(9)
    assert np.array_equal(before[0], after[0])
    assert after[1].flatten(1).T.unique(dim=0).tolist() == [[1, 2, 3]]
