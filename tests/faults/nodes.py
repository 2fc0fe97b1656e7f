"""Ray nodes as processes of this machine, with GPUs that exist in name only, so that a test may kill them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240
# On loopback and for the tests alone: without a token, whatever mode this process or this machine is in.
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


def until(condition: Callable[[], bool], what: str, pause: float = 0.1) -> None:
    """Waits for a condition; fails the test if it does not come true."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > PATIENCE:
            pytest.fail(f"waited {PATIENCE} s for {what}")
        time.sleep(pause)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(process: psutil.Process) -> None:
    """SIGKILL to a process and all that it has begun, at once, as when a machine is lost."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


class Node:
    """One Ray node."""

    def __init__(self, *options: str) -> None:
        """Starts it with the options of `ray start`."""
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", *options]
        # Each node of one machine would hand the same ports to its workers.
        command += ["--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
        with tempfile.NamedTemporaryFile(prefix="ray-node-", suffix=".log", delete=False) as log:
            self._log = Path(log.name)
            self.process = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
            )

    def kill(self) -> None:
        """Loses it."""
        if self.process.poll() is None:
            kill(psutil.Process(self.process.pid))
        self.process.wait(30)
        self._log.unlink(missing_ok=True)

    def joins(self) -> bool:
        """Waits until it has joined its cluster; False if it ended instead, as Ray ends a node after 30 seconds."""
        until(lambda: "Ray runtime started" in self._log.read_text() or self.process.poll() is not None, "the node")
        return self.process.poll() is None

    def scorers(self, actor: str) -> list[psutil.Process]:
        """The processes of this node in which an actor of a class scores."""
        assert self.process.poll() is None, f"the node ended by itself: {self._log.read_text()[-2000:]}"
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::") and actor in title:
                found.append(process)
        return found


class Cluster:
    """A head without GPUs, and workers with one each."""

    def __init__(self, *options: str, cpus: int = 2) -> None:
        """Starts the head only, with more options of `ray start`; later workers have so many CPUs."""
        self._cpus = cpus
        self._temp = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie below it
        self._port = free_port()
        own = ["--head", "--num-cpus=2", "--num-gpus=0", f"--port={self._port}", f"--temp-dir={self._temp}"]
        self.head = Node(*own, *options, "--include-dashboard=false", f"--ray-client-server-port={free_port()}")
        self.workers: list[Node] = []
        until(self._answers, "the head")

    @property
    def address(self) -> str:
        """Where a driver joins."""
        return f"127.0.0.1:{self._port}"

    def add_worker(self, cpus: int | None = None) -> Node:
        """Starts one more worker, which has joined then; on a busy machine a node may end before, and is begun anew."""
        for _ in range(3):
            worker = Node(f"--address={self.address}", f"--num-cpus={cpus or self._cpus}", "--num-gpus=1")
            if worker.joins():
                break
        self.workers.append(worker)
        return worker

    def lose(self, worker: Node) -> None:
        """Loses a worker."""
        self.workers.remove(worker)
        worker.kill()

    def end(self) -> None:
        """Loses everything."""
        for node in [*self.workers, self.head]:
            node.kill()
        shutil.rmtree(self._temp, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@contextmanager
def cluster(workers: int, *options: str, cpus: int = 2) -> Iterator[Cluster]:
    """A cluster that is gone afterwards; its head has more options of `ray start`, its workers so many CPUs."""
    made = Cluster(*options, cpus=cpus)
    try:
        for _ in range(workers):
            made.add_worker()
        yield made
    finally:
        made.end()
