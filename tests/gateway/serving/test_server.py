"""A whole server process: what it says when ready, how it stops, and that nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

CHAT = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
Start = Callable[..., Any]


def is_running(process_id: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_it_says_where_it_is_answers_and_stops_cleanly(start: Start) -> None:
    server = start("--served-model-name", "name")
    assert (server.model, server.max_model_len) == ("name", "2048")
    pages = f"playground at {server.url}/playground, docs at {server.url}/docs"
    assert server.lines[-1].rstrip().endswith(pages)
    (engine,) = server.children()
    assert httpx.get(server.url + "/health").status_code == 200
    answer = httpx.post(server.url + "/v1/chat/completions", json=CHAT | {"max_tokens": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not is_running(engine)
    assert any("POST /v1/chat/completions 200" in line for line in server.lines)
    assert not any("Traceback" in line for line in server.lines)


def test_the_engine_does_not_outlive_a_server_that_is_killed(start: Start) -> None:
    server = start()
    (engine,) = server.children()
    os.kill(server.process.pid, signal.SIGKILL)
    server.wait()
    deadline = time.monotonic() + 60
    while is_running(engine):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_engine_that_cannot_start_is_one_line_and_exit_code_1(
    start: Start, model_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.symlink_to(model_folder)
    server = start(model=broken)
    assert server.wait() == 1
    assert server.lines[-1] == "error: The weights are no weights.\n"
    assert not any("Traceback" in line for line in server.lines)


def test_http_processes_share_the_limit_of_the_server(start: Start) -> None:
    server = start(
        *("--api-server-count", "2", "--max-num-seqs", "3", "--max-queue-size", "2"),
        "--disable-log-requests",
    )
    body = CHAT | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
    with contextlib.ExitStack() as open_streams, httpx.Client(timeout=120) as client:
        # Both processes answer as soon as the server is ready. Each request has a connection of its
        # own, which the kernel gives to one process or the other.
        statuses = [
            open_streams.enter_context(
                client.stream("POST", server.url + "/v1/chat/completions", json=body)
            ).status_code
            for _ in range(40)
        ]
    assert sorted(statuses) == [200] * 5 + [429] * 35
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
