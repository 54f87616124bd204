"""A whole server process: what it says when ready, how it stops, and that nothing outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

PROGRAM = Path(__file__).with_name("scripted_server.py")
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
CHAT = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
Start = Callable[..., "RunningServer"]


class RunningServer:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line)
            if found := re.match(r"formgate ready: (\S+) — model (\S+) — (\d+) tokens", line):
                self.url, self.model, self.max_model_len = found.groups()
                break
        # Nobody else empties the pipe, and a full one would stop the server.
        self._reader = threading.Thread(target=lambda: self.lines.extend(process.stdout or ()))
        self._reader.start()

    def wait(self, timeout: float = 20) -> int:
        code = self.process.wait(timeout)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def children(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in task.read_text().split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without weights: every byte is a token."""
    folder = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[RunningServer] = []

    def start(*arguments: str, model: Path = folder) -> RunningServer:
        process = subprocess.Popen(
            [
                *(sys.executable, str(PROGRAM), str(model)),
                *("--host", "127.0.0.1", "--port", "0", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(RunningServer(process))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


def is_running(process_id: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_it_says_where_it_is_answers_and_stops_cleanly(start: Start) -> None:
    server = start("--served-model-name", "name")
    assert (server.model, server.max_model_len) == ("name", "2048")
    assert server.lines[-1].rstrip().endswith(f"docs at {server.url}/docs")
    (engine,) = server.children()
    assert httpx.get(server.url + "/health").status_code == 200
    answer = httpx.post(server.url + "/v1/chat/completions", json=CHAT | {"max_tokens": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not is_running(engine)
    assert any("POST /v1/chat/completions 200" in line for line in server.lines)
    assert not any("Traceback" in line for line in server.lines)


def test_a_second_signal_ends_answers_that_are_under_way(start: Start) -> None:
    server = start("--disable-log-requests")
    body = CHAT | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
    assert time.monotonic() - began < 3
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "server_stopping"
    assert rest[-1] == "data: [DONE]"
    assert server.wait() == 0
    assert not any("Traceback" in line for line in server.lines)


def test_the_engine_does_not_outlive_a_server_that_is_killed(start: Start) -> None:
    server = start()
    (engine,) = server.children()
    os.kill(server.process.pid, signal.SIGKILL)
    server.wait()
    deadline = time.monotonic() + 10
    while is_running(engine):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_engine_that_cannot_start_is_one_line_and_exit_code_1(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.symlink_to(folder)
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
    with contextlib.ExitStack() as open_streams, httpx.Client(timeout=30) as client:
        # Each on a connection of its own, which the kernel gives to one process or the other.
        statuses = [
            open_streams.enter_context(
                client.stream("POST", server.url + "/v1/chat/completions", json=body)
            ).status_code
            for _ in range(40)
        ]
    assert sorted(statuses) == [200] * 5 + [429] * 35
    server.process.send_signal(signal.SIGINT)
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
