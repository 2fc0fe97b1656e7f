"""What `storage` promises holds in an object store, which has no folders and sometimes does not answer."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyarrow import fs

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.storage import Run
from tests.stores.conftest import BUCKET, Store
from tests.stores.flaky import KINDS, flaky


def test_files_are_written_listed_and_removed_without_folders(store: Store) -> None:
    root = store.uri("files")
    assert not storage.exists(root)
    assert list(storage.list_files(root)) == []
    storage.remove(root)
    contents = {"b/2": b"two", "a": b"", "b/c d=1/é.bin": os.urandom(12_000_000)}
    for name, content in contents.items():
        storage.write_bytes(storage.join(root, name), content)
    listed = [info.path.removeprefix(f"{BUCKET}/files/") for info in storage.list_files(root)]
    assert listed == sorted(contents)
    assert {name: storage.read_bytes(storage.join(root, name)) for name in contents} == contents
    assert storage.exists(storage.join(root, "b"))
    filesystem, path = storage.open_uri(root)
    assert {info.type for info in filesystem.get_file_info(fs.FileSelector(path, recursive=True)) if info.size} == {
        fs.FileType.File
    }
    storage.remove(storage.join(root, "b"))
    assert [info.base_name for info in storage.list_files(root)] == ["a"]
    storage.remove(root)
    assert not storage.exists(root)


def test_an_object_that_stands_for_a_folder_is_an_empty_folder(store: Store) -> None:
    filesystem, path = storage.open_uri(store.uri("made-by-hand"))
    filesystem.create_dir(path)
    assert list(storage.list_files(store.uri("made-by-hand"))) == []
    run = Run(store.uri("made-by-hand"))
    assert run.claim("index", {"root": "photos"}) is False
    run.finish("index", {"images": 5})
    assert Run(run.uri).claim("index", {"root": "photos"}) is True
    storage.remove(run.uri)
    assert not storage.exists(run.uri)


def test_a_foreign_prefix_and_a_bucket_that_is_not_there_are_the_users_mistakes(store: Store) -> None:
    storage.write_bytes(store.uri("foreign/holiday.jpg"), b"")
    with pytest.raises(UserError, match="it is not a run directory"):
        Run(store.uri("foreign")).claim("index", {})
    with pytest.raises(UserError, match=r"run_dir: s3://none/run.* is not writable: .*NO_SUCH_BUCKET"):
        Run(store.uri("run").replace(BUCKET, "none")).claim("index", {})


@pytest.mark.parametrize(
    ("option", "said"), [("nope=1", "query parameter in S3 URI: 'nope'"), ("tls_verify_certificates=false", "be lost")]
)
def test_an_option_that_would_not_be_heeded_is_refused(store: Store, option: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        storage.open_uri(f"{store.uri('files')}&{option}")


def test_failures_are_outlasted_also_by_a_copy_on_another_machine(store: Store) -> None:
    contents = {str(number): os.urandom(100_000) for number in range(12)}
    with flaky(store.address, share=0.3, seed=3) as proxy, ThreadPoolExecutor(8) as threads:
        filesystem, path = storage.open_uri(store.uri("bad-days", proxy.address))
        sent = pickle.loads(pickle.dumps(filesystem))

        def there_and_back(name: str) -> bytes:
            with sent.open_output_stream(f"{path}/{name}") as stream:
                stream.write(contents[name])
            with sent.open_input_file(f"{path}/{name}") as file:
                return bytes(file.read())

        assert dict(zip(contents, threads.map(there_and_back, contents), strict=True)) == contents
        assert set(proxy.counts) == {*KINDS, "passed"}
        assert max(proxy.attempts.values()) > 3, "more than pyarrow makes by itself"


def test_failures_are_outlasted_by_files_smaller_than_the_text_of_an_error(store: Store) -> None:
    with flaky(store.address, share=0.3, seed=1) as proxy, ThreadPoolExecutor(8) as threads:
        uris = [store.uri(f"tiny/{number}", proxy.address) for number in range(12)]
        list(threads.map(storage.write_bytes, uris, [b"tiny"] * len(uris)))
        assert set(threads.map(storage.read_bytes, uris)) == {b"tiny"}
        reads = [times for request, times in proxy.attempts.items() if request.startswith("GET")]
        assert sum(reads) > len(reads) == len(uris)
