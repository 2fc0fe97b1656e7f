"""Images in rows of Parquet files: each group is read once, and damage is told from a store that fails."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray.errors import BadImage
from ddps_ray.sources import parquet
from tests.test_shards import GARBLED_FOOTER

IMAGES = [f"image {n}".encode() * 50 for n in range(25)]


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": image, "path": f"{n}.jpg"} for n, image in enumerate(IMAGES)]
    rows = pa.table({"label": list(range(25)), "image": pa.array([*cells, None, {"bytes": None}], kind).slice(0, 25)})
    last = pa.table({"label": [25, 26], "image": pa.array([None, {"bytes": None, "path": "x"}], kind)})
    pq.write_table(pa.concat_tables([rows, last]), tmp_path / "x.parquet", row_group_size=10)
    return tmp_path / "x.parquet"


def test_rows_are_read_across_groups_and_a_null_has_a_reason(nested: Path) -> None:
    assert [parquet.read_row(str(nested), row) for row in (24, 0, 9, 10, 24)] == [IMAGES[n] for n in (24, 0, 9, 10, 24)]
    for row in (25, 26):
        with pytest.raises(BadImage, match="no bytes are stored"):
            parquet.read_row(str(nested), row)
    with pytest.raises(BadImage, match="row 27 is past the end, the file has 27 rows"):
        parquet.read_row(nested.as_uri(), 27)
    assert [parquet.group(str(nested), row) for row in (0, 9, 10, 25, 26, 27)] == [0, 0, 1, 2, 2, 3]


def test_a_flat_column_of_images_is_one_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array(IMAGES, pa.binary())}), tmp_path / "x.parquet")
    assert parquet.read_row(str(tmp_path / "x.parquet"), 3) == IMAGES[3]


def test_the_column_that_is_named_is_read(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = {name: pa.array([{"bytes": name.encode()}], kind) for name in ("image", "a.b", "a")}
    path = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({**cells, "raw": pa.array([b"raw"], pa.binary()), "text": ["x"]}), path)
    for name in ("a", "image", "a.b", "raw"):
        assert parquet.read_row(path, 0, name) == name.encode()
    assert parquet.read_row(path, 0) == b"image", "which is the usual one"
    for name in ("text", "absent"):
        with pytest.raises(BadImage, match=r"no columns of images among image, a\.b, a, raw, text"):
            parquet.read_row(path, 0, name)


def test_what_is_no_file_of_images_is_said(tmp_path: Path, nested: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet at all")
    (tmp_path / "garbled.parquet").write_bytes(GARBLED_FOOTER)
    kind = pa.struct([("bytes", pa.binary())])
    pq.write_table(pa.table({"a": pa.array([None], kind), "b": pa.array([None], kind)}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"image": ["path.jpg"]}), tmp_path / "paths.parquet")
    for name, said in (
        ("text", "cannot be read: Parquet"),
        ("garbled", "cannot be read: Couldn't deserialize thrift"),
        ("paths", "no columns of images among image"),
        ("two", "2 columns of images among a, b"),
    ):
        with pytest.raises(BadImage, match=said):
            parquet.read_row(str(tmp_path / f"{name}.parquet"), 0)
    with pytest.raises(FileNotFoundError):
        parquet.read_row(str(tmp_path / "absent.parquet"), 0)


def test_a_damaged_group_is_bad_and_the_others_are_not(nested: Path) -> None:
    chunk = pq.read_metadata(nested).row_group(1).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(nested.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    nested.write_bytes(data)
    assert parquet.read_row(str(nested), 3) == IMAGES[3]
    with pytest.raises(BadImage, match="cannot be read: row group 1: "):
        parquet.read_row(str(nested), 12)


def test_a_value_is_made_once_for_all_threads_and_the_oldest_is_let_go() -> None:
    kept: parquet.Kept[int] = parquet.Kept(2)
    made: list[str] = []

    def make(name: str) -> int:
        made.append(name)
        time.sleep(0.05)
        return len(made)

    barrier = threading.Barrier(8)

    def ask(_: int) -> int:
        barrier.wait()
        return kept.get("a", lambda: make("a"))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [1] * 8
    for name in "babca":  # a was let go when c came, since b had been asked for after it
        kept.get(name, lambda name=name: make(name))  # type: ignore[misc]
    assert made == ["a", "b", "c", "a"]


def test_large_values_are_let_go_sooner_but_for_the_last() -> None:
    kept: parquet.Kept[str] = parquet.Kept(4, 100)
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    for name, size in (("a", 60), ("b", 40), ("a", 60), ("c", 60), ("b", 40), ("d", 500), ("d", 500), ("b", 40)):
        assert kept.get(name, lambda name=name: make(name), size) == name  # type: ignore[misc]
    assert made == ["a", "b", "c", "b", "d", "b"], "c let go of b and of a, d of all, and is kept itself"


def test_a_failure_is_not_kept() -> None:
    kept: parquet.Kept[bytes] = parquet.Kept(2)

    def fail() -> bytes:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="away"):
        kept.get("a", fail)
    assert kept.get("a", lambda: io.BytesIO(b"x").read()) == b"x"
