"""`formgate chat` and `formgate bench` against a real server."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formgate.gateway import cli

pytestmark = pytest.mark.serve

Chat = Callable[..., tuple[int, str, str]]

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
MOOD = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    def run(lines: list[str], *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = cli.main(["chat", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def json_file(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def test_each_answer_satisfies_the_schema(server: Any, chat: Chat, tmp_path: Path) -> None:
    schema = json_file(tmp_path / "mood.json", MOOD)
    code, out, err = chat(
        ["I love it!", "/clear", "I hate it!"], server.url + "/v1", "--schema", schema
    )
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 2
    assert all(answer["mood"] in ("good", "bad") for answer in answers)


def test_the_user_plays_the_tool(server: Any, chat: Chat, tmp_path: Path) -> None:
    tools = json_file(tmp_path / "tools.json", [{"type": "function", "function": WEATHER}])
    lines = ["What is the weather in Rome?", '{"temperature": 20}']
    code, out, err = chat(lines, server.url, "--tools", tools, "--temperature", "0")
    assert (code, err) == (0, "")
    call, answer = out.split("\n", 1)
    assert call.startswith("→ get_weather({")
    assert json.loads(call.removeprefix("→ get_weather(").removesuffix(")")).keys() == {"city"}
    assert answer.strip()


def test_a_refusal_is_one_line_and_the_chat_goes_on(
    server: Any, chat: Chat, tmp_path: Path
) -> None:
    schema = json_file(tmp_path / "bad.json", {"divisibleBy": 2})
    code, out, err = chat(["one", "two"], server.url, "--schema", schema)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 2
    assert "/divisibleBy" in err


def test_a_server_of_its_own(chat: Chat) -> None:
    code, out, err = chat(["Hello!"], "--max-tokens", "8", "--max-model-len", "512")
    assert code == 0
    assert out.strip()
    assert "error" not in err
    code, _, err = chat(["Hello!"], "/no/model")
    assert code == 2
    code, _, err = chat([], "http://127.0.0.1:1", "--max-model-len", "512")
    assert code == 2
    assert "--max-model-len is for a server that is started here" in err


def read_until(terminal: int, mark: bytes) -> bytes:
    got = b""
    deadline = time.monotonic() + 60
    while mark not in got:
        assert time.monotonic() < deadline, got
        if select.select([terminal], [], [], 0.2)[0]:
            got += os.read(terminal, 4096)
    return got


def test_ctrl_c_stops_an_answer_and_not_the_chat(server: Any, tmp_path: Path) -> None:
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 300}
    schema = json_file(tmp_path / "numbers.json", numbers)
    code = "import sys; from formgate.gateway import cli; sys.exit(cli.main())"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "chat", server.url, "--schema", schema],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)),
    )
    try:
        read_until(ours, b"> ")
        os.write(ours, b"Count.\n")
        read_until(ours, b"[")
        os.write(ours, b"\x03")  # the terminal makes it a signal
        assert b"]" not in read_until(ours, b"> ")
        os.write(ours, b"\x03")  # at the prompt it drops the line
        read_until(ours, b"> ")
        os.write(ours, b"/exit\n")
        assert process.wait(60) == 0
        server.wait_until_idle()  # the server has noticed
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_the_bench_counts_what_the_server_counts(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.wait_until_idle()
    before = server.metric("vllm:generation_tokens_total")
    page = tmp_path / "bench.html"
    words = ["--concurrency", "1,3", "--requests", "4", "--max-tokens", "6", "--ignore-eos"]
    assert cli.main(["bench", server.url, *words, "--json", "--html", str(page)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [level["concurrency"] for level in report["levels"]] == [1, 3]
    for level in report["levels"]:
        assert (level["requests"], level["failed"], level["tokens"]) == (4, 0, 24)
        assert level["first_token"]["p50"] <= level["total"]["p50"]
    server.wait_until_idle()
    warm_up = 6
    assert server.metric("vllm:generation_tokens_total") - before == 2 * 24 + warm_up
    assert page.read_text().count("<svg") == 3


def test_a_bench_that_the_server_refuses(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = json_file(tmp_path / "bad.json", {"divisibleBy": 2})
    assert cli.main(["bench", server.url, "--concurrency", "1", "--schema", schema]) == 2
    assert "/divisibleBy" in capsys.readouterr().err
