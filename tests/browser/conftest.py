"""A real server of the embedded model and a real Chromium. Where Playwright or a Chromium is
missing, the tests of this folder are skipped; `make test-browser` brings both.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.local_server import answers, free_port

HERE = Path(__file__).parent
START_TIMEOUT = 120.0
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
            item.add_marker("serve")


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As a machine that loses its power: no goodbye on any connection."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    started: list[Server] = []

    def start(*flags: str) -> Server:
        log = tmp_path_factory.mktemp("browser") / "log"
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "formgate.gateway", "--host", "127.0.0.1"]
        command += ["--port", str(port), *flags]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        started.append(Server(url, process))
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(url + "/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        return started[-1]

    yield start
    for server in started:
        server.process.terminate()
    for server in started:
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as playwright:
        found = os.getenv("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
        if not found and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=found or None)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    """A browser without memory of other tests. A page of it that breaks, asks another host, or
    breaks its own policy fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 820})
    context.set_default_timeout(60_000)
    faults: list[str] = []
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on(
        "console",
        lambda line: faults.append(line.text) if "Content Security" in line.text else None,
    )
    hosts = set()
    context.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    yield context
    context.close()
    assert faults == []
    assert hosts <= {"127.0.0.1"}


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: the folder SCREENSHOTS, or one that nobody keeps."""
    folder = Path(os.getenv("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
