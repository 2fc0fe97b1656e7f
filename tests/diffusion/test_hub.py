"""What the Hub, a proxy before it, or the cache's disk says is passed on in one line, with what to do."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from ddps_ray.config import Model
from ddps_ray.diffusion import hub, staging
from ddps_ray.errors import UserError

ANSWERS = {
    "gated": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "absent": (404, "RepoNotFound"),
    "stale": (404, "RevisionNotFound"),
    "broken": (500, ""),
    "proxied": (407, ""),
}


class Hub(BaseHTTPRequestHandler):
    """A Hub on loopback, whose answer is in the model's name."""

    def do_GET(self) -> None:  # noqa: D102
        name = next(name for name in ANSWERS if f"/{name}" in self.path)
        status, code = ANSWERS[name]
        data = json.dumps({"error": "no"}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code) if code else None
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    do_HEAD = do_GET

    def do_CONNECT(self) -> None:  # noqa: D102
        self.send_error(407, "Proxy Authentication Required")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "hub")}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield address
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gated", "it is gated: accept its terms on the Hub, and set HF_TOKEN on every node, or copy"),
        ("private", "no model on the Hub that is called so; a private one needs HF_TOKEN"),
        ("absent", "there is no folder here and no model on the Hub that is called so"),
        ("stale", "it has no such model.revision"),
        ("broken", "try again, or copy the model's folder here, or to a store, and name that"),
        ("proxied", "a proxy is in the way: put its user and password into HTTPS_PROXY"),
    ],
)
@pytest.mark.usefixtures("address")
def test_what_the_hub_answers_is_said_with_what_to_do(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        staging.pin(Model(path=f"someone/{name}", revision="v1"))
    line = str(caught.value)
    assert line.startswith(f"model.path: someone/{name} at revision v1: ")
    assert said in line
    assert "\n" not in line
    assert "http" not in line


def test_a_proxy_that_wants_a_password_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    huggingface_hub.close_session()
    monkeypatch.setenv("HTTPS_PROXY", address)
    monkeypatch.setenv("NO_PROXY", "")
    try:
        with pytest.raises(
            UserError, match=r"407 .*: a proxy is in the way: put its user and password into HTTPS_PROXY"
        ):
            staging.pin(Model(path="someone/model"))
    finally:
        huggingface_hub.close_session()


def test_no_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    with pytest.raises(UserError, match="the Hub does not answer here: mind HTTPS_PROXY, or copy the model's folder"):
        staging.pin(Model(path="someone/model"))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "/cache/x: No space left on device: set HF_HOME to a disk with room for it"),
        (errno.EDQUOT, "/cache/x: Disk quota exceeded: set HF_HOME to a disk with room for it"),
        (errno.EACCES, "/cache/x: Permission denied: no right to write there: set HF_HOME to a folder where there is"),
        (errno.ENOTDIR, "/cache/x: Not a directory: that is no folder: set HF_HOME to one"),
        (errno.EROFS, "/cache/x: Read-only file system: no right to write there: set HF_HOME to a folder"),
    ],
)
def test_a_cache_that_cannot_be_written_is_named(number: int, said: str) -> None:
    error = OSError(number, os.strerror(number), "/cache/x")
    assert hub.explained(error, Model(path="a/b")).startswith(f"model.path: a/b: {said}")
