"""An S3 API of its own for the session."""

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults.nodes import free_port, until

BUCKET = "lake"


class Store:
    """An S3 API on loopback with one bucket.

    Attributes:
        address: Its `host:port`.
    """

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"

    def uri(self, path: str, through: str | None = None) -> str:
        """URI of a path in the bucket; `through` is the `host:port` of a proxy before the store."""
        return f"s3://{BUCKET}/{path}?endpoint_override={through or self.address}&scheme=http&region=us-east-1"

    def answers(self) -> bool:
        """Says whether the store takes requests, and makes the bucket."""
        connection = http.client.HTTPConnection(self.address)
        try:
            connection.request("PUT", f"/{BUCKET}")
            return connection.getresponse().status == http.client.OK
        except ConnectionError:
            return False
        finally:
            connection.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that lasts as long as the session."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("store") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    made = Store(port)
    try:
        until(lambda: made.answers() or server.poll() is not None, "the store")
        assert server.poll() is None, log.read_text()
        yield made
    finally:
        server.terminate()
        server.wait(30)
