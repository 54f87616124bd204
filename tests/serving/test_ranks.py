"""A real server over two ranks: a rank that dies or hangs ends the engine, which starts again, and
nothing is left. On one node, and on two that share this machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

DEADLINE = 90.0  # seconds
FLAGS = ("--dtype", "float32", "--max-model-len", "2048")
LONG = {"prompt": "one two", "max_tokens": 2000, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "one two three", "max_tokens": 8, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
CHAT = {
    "messages": [{"role": "user", "content": "John Smith, 30. Extract name and age."}],
    "temperature": 0,
    "response_format": FORMAT,
}


def children_of(parent: int, program: str) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [
        int(child)
        for child in listed.split()
        if program in Path(f"/proc/{child}/cmdline").read_text()
    ]


def processes_of(server: Any) -> tuple[int, int]:
    """(engine, its other rank)"""
    (engine,) = children_of(server.process.pid, "engine_process")
    (rank,) = children_of(engine, "rank_process")
    return engine, rank


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def text_of(server: Any) -> str:
    answer = httpx.post(server.url + "/v1/completions", json=SHORT, timeout=60)
    return answer.json()["choices"][0]["text"]


def break_while_answering(server: Any, harm: Callable[[], None]) -> tuple[int, int]:
    """Harm the engine in the middle of an answer, which gets an error. Returns what ran."""
    begun = threading.Event()
    lines: list[str] = []

    def read() -> None:
        with httpx.stream("POST", server.url + "/v1/completions", json=LONG, timeout=60) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()

    before = processes_of(server)
    stream = threading.Thread(target=read)
    stream.start()
    assert begun.wait(DEADLINE)
    harm()
    stream.join(DEADLINE)
    events = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(events[-2])["error"]["code"] == "engine_died"
    assert events[-1] == "[DONE]"
    return before


def test_a_rank_that_dies_or_hangs(serve: Callable[..., Any], float32_server: Any) -> None:
    server = serve(*FLAGS, "-tp", "2", "--engine-timeout", "3")
    expected = text_of(float32_server)
    assert text_of(server) == expected
    chats = [
        httpx.post(one.url + "/v1/chat/completions", json=CHAT, timeout=60).json()
        for one in (server, float32_server)
    ]
    contents = [chat["choices"][0]["message"]["content"] for chat in chats]
    assert contents[0] == contents[1]
    assert json.loads(contents[0]).keys() == {"name", "age"}

    ended = break_while_answering(server, lambda: os.kill(processes_of(server)[1], signal.SIGKILL))
    said = "The engine lost rank 1: its process was ended by signal 9."
    wait_until(lambda: said in server.log.read_text())
    wait_until(lambda: httpx.get(server.url + "/health").status_code == 200)
    assert not any(map(is_running, ended))
    assert text_of(server) == expected

    hung = break_while_answering(server, lambda: os.kill(processes_of(server)[1], signal.SIGSTOP))
    wait_until(lambda: "The engine process hangs" in server.log.read_text())
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(DEADLINE)
    wait_until(lambda: not any(map(is_running, hung)))


def test_two_nodes(serve: Callable[..., Any], tmp_path: Path, float32_server: Any) -> None:
    """Two groups of processes on loopback, as two hosts would have them."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = (*FLAGS, "-tp", "2", "--nnodes", "2", "--master-port", str(port))
    command = [sys.executable, "-m", "formgate.gateway", *flags, "--node-rank", "1"]
    with (tmp_path / "node1").open("wb") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = serve(*flags)
        expected = text_of(float32_server)
        assert text_of(server) == expected
        assert (
            children_of(children_of(server.process.pid, "engine_process")[0], "rank_process") == []
        )
        (rank,) = children_of(node.pid, "rank_process")
        os.kill(rank, signal.SIGKILL)
        wait_until(lambda: "is ready again" in server.log.read_text())
        assert text_of(server) == expected
        (again,) = children_of(node.pid, "rank_process")
        assert again != rank
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        assert node.wait(DEADLINE) == 0  # it ends in order with node 0
        assert not is_running(again)
    finally:
        node.kill()
        node.wait()
    said = (tmp_path / "node1").read_text()
    assert f"node 1 of 2: rank 1 of 2, for node 0 at 127.0.0.1:{port}" in said
    assert "a rank was ended by signal 9" in said
