"""Several HTTP processes over one engine: both answer, count and end as one server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

STREAMS = 24
TOKENS = "vllm:generation_tokens_total"
BODY = {"prompt": "one two", "max_tokens": 8, "ignore_eos": True, "stream": True}


def children(process_id: int) -> dict[int, str]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in listed}


def running(process_ids: list[int]) -> list[int]:
    return [each for each in process_ids if Path(f"/proc/{each}/cmdline").exists()]


def tokens_of(process_id: int) -> float:
    """What one process alone has counted, from the socket on which it tells the others."""
    own = set()
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            own.add(os.readlink(descriptor))
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, _, _, _, inode, *path = line.split()
        if path and "/metrics-" in path[0] and f"socket:[{inode}]" in own:
            with socket.socket(socket.AF_UNIX) as asking, asking.makefile() as told:
                asking.connect(path[0])
                (value,) = [each for each in told if each.startswith(TOKENS)]
                return float(value.rpartition(" ")[2])
    raise AssertionError("the process tells nothing")


def wait_gone(process_ids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while running(process_ids):
        assert time.monotonic() < deadline, "processes are left over"
        time.sleep(0.05)


def asked(server: Any, _: int) -> str:
    answer = httpx.post(server.url + "/v1/completions", json=BODY, timeout=60)
    assert answer.status_code == 200
    return answer.text


def two_processes(serve: Callable[..., Any], *flags: str) -> tuple[Any, dict[int, str]]:
    server = serve("--api-server-count", "2", "--max-model-len", "256", *flags)
    deadline = time.monotonic() + 120
    while "formgate ready" not in server.log.read_text():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)
    return server, children(server.process.pid)


def test_two_processes_answer_count_and_end_as_one_server(serve: Callable[..., Any]) -> None:
    server, begun = two_processes(serve)
    with ThreadPoolExecutor(STREAMS) as threads:
        texts = list(threads.map(lambda i: asked(server, i), range(STREAMS)))
    assert all(text.rstrip().endswith("data: [DONE]") for text in texts)
    assert all('"finish_reason":"length"' in text for text in texts)
    # Whichever process is asked, it tells of all requests; and each has had some of them.
    for _ in range(6):
        assert server.metric(TOKENS) == 8 * STREAMS
        assert server.metric("vllm:num_requests_running") == 0
        assert httpx.get(server.url + "/health", timeout=60).status_code == 200
    (other,) = [child for child, command in begun.items() if "api_server" in command]
    assert 0 < tokens_of(other) < 8 * STREAMS

    (engine,) = [child for child, command in begun.items() if "engine_process" in command]
    os.kill(engine, signal.SIGKILL)
    deadline = time.monotonic() + 120
    healthy = 0
    while healthy < 20:  # in a row, so of both
        assert time.monotonic() < deadline
        status = httpx.get(server.url + "/health", timeout=60).status_code
        healthy = (
            healthy + 1 if status == 200 and server.metric("formgate:engine_restarts_total") else 0
        )
        time.sleep(0.02)
    assert all("[DONE]" in asked(server, i) for i in range(8))
    begun |= children(server.process.pid)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    wait_gone(list(begun))
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_is_replaced(
    serve: Callable[..., Any], number: signal.Signals
) -> None:
    server, begun = two_processes(serve, "--engine-timeout", "2")
    (other,) = [child for child, command in begun.items() if "api_server" in command]
    os.kill(other, number)
    wait_gone([other])
    deadline = time.monotonic() + 120
    answered = False
    while not answered:
        assert time.monotonic() < deadline, server.log.read_text()
        assert "[DONE]" in asked(server, 0)
        new = [each for each, command in children(server.process.pid).items() if each not in begun]
        with contextlib.suppress(AssertionError, OSError):  # it tells nothing yet
            answered = any(tokens_of(each) > 0 for each in new)
    log = server.log.read_text()
    how = {signal.SIGKILL: "ended by signal 9.", signal.SIGSTOP: "hangs: nothing came"}[number]
    assert log.count("It is started again") == log.count(f"HTTP process 1 {how}") == 1
    begun |= children(server.process.pid)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    wait_gone(list(begun))
    assert "Traceback" not in server.log.read_text()
