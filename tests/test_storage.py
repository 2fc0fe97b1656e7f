"""Files whole or absent, at paths and URIs alike; and a run directory that refuses what it was not made by."""

import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.schemas import LAYOUT
from ddps_ray.storage import Run


def test_a_reader_never_sees_part_of_a_file(tmp_path: Path) -> None:
    target = str(tmp_path / "deep" / "file.bin")
    contents = {bytes([letter]) * size for letter, size in ((97, 3_000_000), (98, 2_000_000))}
    storage.write_bytes(target, next(iter(contents)))
    done = threading.Event()

    def write() -> None:
        for _ in range(40):
            for content in contents:
                storage.write_bytes(target, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(storage.read_bytes(target))
    writer.join()
    assert seen <= contents
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.bin"], "temporary files must not stay"


def test_a_name_as_long_as_the_file_system_lets_it_be_can_be_written(tmp_path: Path) -> None:
    for name in ("é" * 127 + "x", "x" * 247 + ".parquet"):
        storage.write_bytes(str(tmp_path / name), b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"


def test_a_file_uri_is_the_same_file_as_its_path(tmp_path: Path) -> None:
    name = "a b%41#c?é.txt"
    as_uri = storage.join(tmp_path.as_uri(), "class 1", name)
    as_path = storage.join(str(tmp_path), "class 1", name)
    storage.write_bytes(as_uri, b"same")
    assert (tmp_path / "class 1" / name).read_bytes() == b"same"
    assert storage.read_bytes(as_path) == b"same"
    assert storage.exists(as_uri)
    assert storage.open_uri(as_uri)[1] == storage.open_uri(as_path)[1] == as_path


def test_parts_go_before_the_query_of_a_uri() -> None:
    root = "s3://bucket/data?endpoint_override=localhost:9000"
    assert storage.join(root, "ipc=10", "a b") == "s3://bucket/data/ipc=10/a%20b?endpoint_override=localhost:9000"


def test_a_relative_path_becomes_absolute_and_a_uri_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/a") == str(tmp_path.resolve() / "runs/a")
    assert storage.absolute("s3://bucket/a") == "s3://bucket/a"


def test_an_unknown_scheme_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="nope://bucket"):
        storage.open_uri("nope://bucket/a")


def test_files_are_listed_sorted_and_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    for name in ("b/2", "a", "b/10"):
        storage.write_bytes(str(tmp_path / name), b"")
    listed = [Path(info.path).relative_to(tmp_path).as_posix() for info in storage.list_files(str(tmp_path))]
    assert listed == ["a", "b/10", "b/2"]
    storage.remove(str(tmp_path / "b"))
    assert list(storage.list_files(str(tmp_path / "b"))) == []


def test_a_table_is_written_in_row_groups(tmp_path: Path) -> None:
    rows = pa.table({"n": list(range(25))})
    storage.write_table(str(tmp_path / "t.parquet"), rows, row_group=10)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    assert pq.read_table(tmp_path / "t.parquet").equals(rows)


def test_a_stage_is_claimed_finished_and_found_finished(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    settings = {"root": "photos", "sizes": (1, 2)}
    assert run.claim("index", settings) is False
    assert run.summary("index") is None
    assert run.claim("index", settings) is False, "begun is not finished"
    run.finish("index", {"images": 5})
    again = Run(str(tmp_path / "run"))
    assert again.claim("index", settings) is True
    assert again.summary("index") == {"images": 5}
    assert again.require("index", "index") == {"images": 5}
    versions = json.loads((tmp_path / "run" / "run.json").read_text())["versions"]
    assert versions["pyarrow"] == pa.__version__
    assert versions["ddps_ray"]


def test_other_settings_are_refused_by_the_name_of_their_key(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.claim("score", {"seed": 0, "score": {"pairs": 10, "size": 256}})
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError) as caught:
        run.claim("score", {"seed": 0, "score": {"pairs": 5, "size": 256}})
    assert "score: score.pairs was 10, is now 5." in str(caught.value)
    assert str(tmp_path / "run") in str(caught.value)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert run.claim("index", {"seed": 5}) is False, "another stage is another matter"


def test_a_record_of_before_uris_had_one_spelling_is_the_same_run(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.claim("index", {"root": "s3://b/my images/", "val": None})
    run.finish("index", {"images": 5})
    run.claim("pack/file:///T/out/", {"fingerprint": "x"})
    run.claim("score", {"prompt": "s3://b/ {}"})
    assert run.claim("index", {"root": storage.absolute("s3://b/my images/"), "val": None}) is True
    with pytest.raises(UserError, match=r'root was "s3://b/my%20images", is now "s3://b/others"'):
        run.claim("index", {"root": "s3://b/others", "val": None})
    assert run.record()["stages"].keys() == {"index", "pack/file:///T/out", "score"}
    assert run.claim("score", {"prompt": "s3://b/ {}"}) is False
    run.finish("pack/file:///T/out", {"packed": 5})
    assert Run(run.uri).claim("pack/file:///T/out", {"fingerprint": "x"}) is True
    assert len(run.record()["stages"]) == 3


def test_a_stage_that_is_needed_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `ddps index` first"):
        Run(str(tmp_path / "run")).require("index", "index")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("holiday.jpg", "", "it is not a run directory"),
        ("run.json", "{", "not readable as a run's record"),
        ("run.json", '{"name": "of another program"}', "not a run's record"),
    ],
)
def test_a_foreign_directory_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        Run(str(tmp_path)).claim("index", {})
    assert str(tmp_path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_run_directory_that_cannot_be_made_is_named(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / inside
    with pytest.raises(UserError, match="run_dir") as caught:
        Run(str(target)).claim("index", {})
    assert str(target) in str(caught.value)


def test_the_record_says_which_layout_wrote_it_and_a_later_one_is_refused(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.claim("index", {})
    assert run.record()["layout"] == LAYOUT
    file = tmp_path / "run" / "run.json"
    earlier = {name: value for name, value in json.loads(file.read_text()).items() if name != "layout"}
    file.write_text(json.dumps(earlier))
    assert run.summary("index") is None, "one from before layouts had numbers is read"
    later = earlier | {"layout": LAYOUT + 1, "versions": {"ddps_ray": "9.9"}}
    file.write_text(json.dumps(later))
    with pytest.raises(
        UserError, match=rf"was written by ddps_ray 9\.9 in layout {LAYOUT + 1}; this one, .* {LAYOUT}$"
    ):
        run.record()
