"""A data set in Google's store, which has no folders: what is below one is listed once for all who ask."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from ddps_ray.sources import layouts
from ddps_ray.sources.listing import Listing

SPLITS = ["train", "val"]


class Google(ThreadingHTTPServer):
    """As much of the store's JSON API as lists the objects of a bucket, on a free port of loopback.

    Attributes:
        names: The objects.
        deep: How often all objects below a prefix were listed.
    """

    daemon_threads = True

    def __init__(self, names: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.names, self.deep = names, Counter[str]()

    @property
    def uri(self) -> str:
        """URI of the bucket's folder `data`."""
        return f"gs://anonymous@lake/data?scheme=http&endpoint_override=127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Google

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if not parts.path.endswith("/o"):  # one object, by its whole name
            self._reply(404, {"error": {"code": 404, "message": "Not Found"}})
            return
        asked = parse_qs(parts.query)
        prefix, shallow = asked["prefix"][0], "delimiter" in asked
        if not shallow and asked.get("includeTrailingDelimiter"):
            self.server.deep[prefix] += 1
        names = [name for name in self.server.names if name.startswith(prefix)]
        found = [name for name in names if not (shallow and "/" in name.removeprefix(prefix))]
        self._reply(200, {"kind": "storage#objects", "items": [_described(name) for name in found]})

    def _reply(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _described(name: str) -> dict[str, str]:
    made = "2024-01-01T00:00:00.000Z"
    return {"kind": "storage#object", "name": name, "bucket": "lake", "size": "1", "timeCreated": made, "updated": made}


@contextmanager
def google(names: list[str]) -> Iterator[Google]:
    """Runs a store with these objects in threads of this process."""
    with Google(names) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        try:
            yield store
        finally:
            store.shutdown()


def listed(uri: str) -> Listing:
    return layouts.list_images(layouts.find(uri, SPLITS), uri, SPLITS, None, None)


def test_what_is_below_a_folder_is_listed_once_a_data_set_and_anew_for_the_next() -> None:
    with google([f"data/{split}/{class_id}/1.jpg" for split in SPLITS for class_id in ("ape", "bee")]) as store:
        found = listed(store.uri)
        assert found.splits["val"]["image_id"].to_pylist() == ["val/ape/1.jpg", "val/bee/1.jpg"]
        assert set(store.deep) >= {"data/", "data/train/", "data/train/ape/"}
        assert set(store.deep.values()) == {1}
        store.names.append("data/train/cat/1.jpg")
        assert listed(store.uri).class_texts == {"ape": "ape", "bee": "bee", "cat": "cat"}
