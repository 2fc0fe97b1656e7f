"""A reverse proxy before an object store that fails a seeded share of its requests as S3 does under load."""

import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ERRORS = {
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
}
KINDS = (*_ERRORS, "refused", "lost")
"""Failures: the two answers; a connection that ends before the request is done; one that ends within the answer."""


class Flaky(ThreadingHTTPServer):
    """The proxy, on a free port of loopback.

    Attributes:
        counts: How many requests each kind of failure befell, and how many were `passed` on unharmed.
        attempts: How many times each request was made, by its method and path.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: str, share: float, seed: int) -> None:
        """Listens; `share` of the requests to the store at `host:port` fails, from none (0) to all (1)."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store, self.counts, self.attempts = store, Counter[str](), Counter[str]()
        self._share, self._seed = share, seed
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Its `host:port`."""
        return f"127.0.0.1:{self.server_port}"

    def fate(self, request: str) -> str:
        """Decides what befalls a request, whatever the order in which threads ask: the n-th time it is made counts."""
        with self._lock:
            self.attempts[request] += 1
            chance = random.Random(f"{self._seed} {self.attempts[request]} {request}")
            kind = chance.choice(KINDS) if chance.random() < self._share else "passed"
            self.counts[kind] += 1
        return kind


@contextmanager
def flaky(store: str, share: float, seed: int = 0) -> Iterator[Flaky]:
    """Runs a proxy in threads of this process; arguments as of `Flaky`."""
    with Flaky(store, share, seed) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def _handle(self) -> None:
        body = self._body()
        kind = self.server.fate(f"{self.command} {self.path}")
        if kind == "refused":
            self.close_connection = True
        elif kind in _ERRORS:
            self._fail(kind)
        else:
            self._pass_on(body, whole=kind == "passed")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _fail(self, code: str) -> None:
        status, message = _ERRORS[code]
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        self._reply(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))], text.encode())

    def _pass_on(self, body: bytes, *, whole: bool) -> None:
        """Asks the store and gives its answer, or ends the connection in the middle of it."""
        store = http.client.HTTPConnection(self.server.store)
        try:
            asked = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_HOP}
            store.request(self.command, self.path, body, asked)
            response = store.getresponse()
            content = response.read()
        finally:
            store.close()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_THE_HOP]
        if response.getheader("Content-Length") is None:
            headers.append(("Content-Length", str(len(content))))
        if whole:
            self._reply(response.status, headers, content)
            return
        self.close_connection = True
        if content:
            self._reply(response.status, headers, content[: len(content) // 2])

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


_OF_THE_HOP = frozenset({"connection", "expect", "keep-alive", "transfer-encoding"})
