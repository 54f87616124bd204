"""A real engine that hangs, and what a real server tells of its cache."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

BODY = {"prompt": "one two", "max_tokens": 2000, "ignore_eos": True, "stream": True}
DEADLINE = 60.0  # seconds


def engine_of(server: Any) -> int:
    listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    (engine,) = [
        int(child)
        for child in listed.split()
        if "engine_process" in Path(f"/proc/{child}/cmdline").read_text()
    ]
    return engine


def test_an_engine_that_is_stopped_is_killed_and_started_again(serve: Callable[..., Any]) -> None:
    server = serve("--engine-timeout", "3", "--max-model-len", "2048")
    engine = engine_of(server)
    begun = threading.Event()
    lines: list[str] = []

    def read() -> None:
        with httpx.stream("POST", server.url + "/v1/completions", json=BODY, timeout=60) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()

    stream = threading.Thread(target=read)
    stream.start()
    assert begun.wait(DEADLINE)
    os.kill(engine, signal.SIGSTOP)
    stream.join(DEADLINE)
    events = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(events[-2])["error"]["code"] == "engine_died"
    assert events[-1] == "[DONE]"
    assert httpx.get(server.url + "/health").status_code == 503
    deadline = time.monotonic() + DEADLINE
    while httpx.get(server.url + "/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert engine_of(server) != engine
    again = httpx.post(server.url + "/v1/completions", json=BODY | {"max_tokens": 3}, timeout=60)
    assert again.text.rstrip().endswith("data: [DONE]")
    assert "The engine process hangs" in server.log.read_text()


@pytest.mark.parametrize("n", [1, 3])
def test_cached_tokens_are_what_was_cached_before_the_request(server: Any, n: int) -> None:
    text = f"{n} " + "count these words, and then those, " * 12
    asked = {"prompt": [text, "other " + text], "n": n, "max_tokens": 2, "temperature": 0.5}
    usages = [
        httpx.post(server.url + "/v1/completions", json=asked, timeout=60).json()["usage"]
        for _ in range(2)
    ]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[0] == 0
    assert usages[1]["prompt_tokens"] // 2 < cached[1] < usages[1]["prompt_tokens"]
