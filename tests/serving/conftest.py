"""A real `formgate serve` process for the tests of this folder: the embedded model, one server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.local_server import free_port

START_TIMEOUT = 300.0


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=120)

    @property
    def model(self) -> str:
        return httpx.get(self.url + "/v1/models", timeout=60).json()["data"][0]["id"]

    def metric(self, name: str) -> float:
        """The sum over the samples of one metric."""
        lines = httpx.get(self.url + "/metrics", timeout=60).text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(name) and line[len(name)] in "{ "
        )

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 120
        names = (
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "formgate:structured_answers_waiting",
        )
        while sum(map(self.metric, names)) > 0:
            assert time.monotonic() < deadline, "requests are left over"
            time.sleep(0.05)


def start_server(log: Path, *arguments: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "formgate.gateway", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *arguments], stdout=out, stderr=subprocess.STDOUT, env=os.environ
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start:\n{log.read_text()}")
        try:
            if httpx.get(url + "/health", timeout=60).status_code == 200:
                return Server(url, process, log)
        except httpx.TransportError:
            pass
        time.sleep(0.1)


def stop_server(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(120)
    except subprocess.TimeoutExpired:
        server.process.kill()
        pytest.fail(f"the server did not stop:\n{server.log.read_text()}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("server") / "log")
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def float32_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In bfloat16 another batch rounds in the third digit."""
    running = start_server(tmp_path_factory.mktemp("float32") / "log", "--dtype", "float32")
    yield running
    stop_server(running)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start further servers with flags of their own."""
    started: list[Server] = []

    def start(*arguments: str) -> Server:
        started.append(start_server(tmp_path / f"log{len(started)}", *arguments))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            stop_server(running)
