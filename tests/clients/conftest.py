"""A real `formgate serve` of the embedded model for the client libraries, one for all of them. They
are installed beside the project by `make test-clients`; where one is missing its tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local_server import answers, free_port

HERE = Path(__file__).parent
START_TIMEOUT = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("clients")
            item.add_marker("serve")


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the server is; OpenAI's API is under `/v1`, Anthropic's too."""
    log = tmp_path_factory.mktemp("clients") / "log"
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "formgate.gateway", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + START_TIMEOUT
    while not answers(url + "/health"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start:\n{log.read_text()}")
        time.sleep(0.1)
    yield url
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"the server did not stop:\n{log.read_text()}")


@pytest.fixture(scope="session")
def model_name() -> str:
    return "formgate-embedded"
