"""A whole server on the open internet: what it logs of what it is told, and what it outlives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.listener import ListenError, bound
from tests.local_server import free_port

PROGRAM = Path(__file__).parents[1].joinpath("scripted_server.py")
CHAT = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
ENDLESS = CHAT | {"max_tokens": 1900, "ignore_eos": True, "stream": True}
KEY = "first-key"
LINE = re.compile(r"(INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d |    |formgate")


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + "/health").status_code == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(self.log.read_text())
            time.sleep(0.02)

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def raw(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """The status of one request and all that was answered."""
        with self.connect() as sock:
            sock.sendall(
                head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            answer = b""
            while part := sock.recv(65536):
                answer += part
        return int(answer.split()[1]), answer

    def lines(self, number: int, of: str) -> list[str]:
        """The log's lines that hold `of`, once there are `number` of them."""
        deadline = time.monotonic() + 20
        while True:
            found = [line for line in self.log.read_text().splitlines() if of in line]
            if len(found) >= number:
                return found
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()  # the engine does not outlive it
        self.process.wait()


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def model_dir(byte_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.json").symlink_to(byte_tokenizer_dir / "tokenizer.json")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(config))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def start(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    started: list[Server] = []

    def start(*flags: str, before: str = "", after: str = "", ready: bool = True) -> Server:
        """`before` and `after` are of the shell: limits and redirections."""
        port = free_port()
        command = [sys.executable, str(PROGRAM), str(model_dir), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--served-model-name", "name", *flags]
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f'{before} exec "$@" {after}', "bash", *command],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        started.append(Server(process, port, log))
        if ready:
            started[-1].wait_until_ready()
        return started[-1]

    yield start
    for server in started:
        server.stop()


# Logs.

FORGED = "INFO 01-01 00:00:00 forged"
HOSTILE = f"a\n{FORGED}\r\n\x1b[31mred\u2028{FORGED}\u202e\x00\x85\x7f"


@pytest.fixture(scope="module")
def plain(start: Start) -> Server:
    return start("--api-key", KEY)


def test_nobody_outside_writes_a_line_of_the_log(plain: Server) -> None:
    quoted = quote("/" + HOSTILE).encode()
    for head in (
        b"GET " + quoted + b" HTTP/1.1\r\n",
        b"GET " + quoted + b" HTTP/1.1\r\nX-Request-Id: a\x1b[31m\x85b\r\n",
        b"GET /%ff%fe%ed%a0%80%0aX HTTP/1.1\r\n",
        b"GET /a\x1b[31m HTTP/1.1\r\n",
        b"GET /\xe2\x80\xae HTTP/1.1\r\nX : a\r\n",
    ):
        assert plain.raw(head + b"x-api-key: first-key\r\n")[0] in (400, 404)
    body = CHAT | {"max_tokens": 3, "model": HOSTILE, "request_id": HOSTILE, "user": HOSTILE}
    url, key = plain.url + "/v1/chat/completions", {"x-api-key": KEY}
    assert httpx.post(url, json=body, headers=key).status_code == 404
    body["model"] = "name"
    assert httpx.post(url, json=body, headers=key).status_code == 200
    plain.lines(1, of="POST /v1/chat/completions 200")
    text = plain.log.read_text()
    assert not re.search(r"^INFO 01-01", text, re.MULTILINE)
    assert set(text) & set("\x1b\u2028\u202e\x00\x85\x7f\r") == set()
    assert all(LINE.match(line) for line in text.splitlines()), text


def test_a_requests_line_tells_model_key_and_tokens_but_no_text(plain: Server) -> None:
    secret = "the horse eats no cucumber salad"
    body = {"messages": [{"role": "user", "content": secret}], "max_tokens": 7}
    headers = {"x-api-key": KEY, "X-Request-Id": "my-id"}
    response = httpx.post(plain.url + "/v1/chat/completions", json=body, headers=headers)
    (line,) = plain.lines(1, of="my-id")
    assert ", model name, key key#1, prompt_tokens 32, completion_tokens 7" in line
    text = plain.log.read_text()
    assert secret not in text
    assert response.json()["choices"][0]["message"]["content"] not in text
    assert KEY not in text


def test_json_log_lines(start: Start) -> None:
    server = start("--log-format", "json", "--api-key", "k")
    headers = {"x-api-key": "k", "X-Request-Id": "streamed"}
    url = server.url + "/v1/chat/completions"
    httpx.post(url, json=CHAT | {"max_tokens": 4, "stream": True}, headers=headers)
    server.raw(b"GET /%0a%e2%80%a8%ff HTTP/1.1\r\n")
    (line,) = server.lines(1, of="streamed")
    told = json.loads(line)
    assert told["message"].startswith("POST /v1/chat/completions 200 in ")
    wanted = {
        **{"method": "POST", "path": "/v1/chat/completions", "status": 200, "level": "INFO"},
        **{"model": "name", "key": "key#1", "prompt_tokens": 5, "completion_tokens": 4},
    }
    assert told | wanted == told
    server.lines(1, of=" 401 in ")
    for line in server.log.read_text().splitlines():
        if not line.startswith("formgate"):  # what is printed before and when it is ready
            assert isinstance(json.loads(line)["message"], str)


# What it lives through.


@pytest.mark.parametrize("after", [">/dev/full 2>&1", ">&- 2>&- <&-", "> >(head -c 1) 2>&1"])
def test_an_output_that_takes_nothing(start: Start, after: str) -> None:
    server = start(after=after)
    body = CHAT | {"max_tokens": 3}
    for _ in range(3):  # a line each
        answer = httpx.post(server.url + "/v1/chat/completions", json=body)
        assert answer.json()["usage"]["completion_tokens"] == 3
        assert httpx.get(server.url + "/health").status_code == 200


def test_a_second_server_on_the_port_fails_at_once(plain: Server, start: Start) -> None:
    assert_port_is_refused(plain.port, "1")
    loading = start("--api-server-count", "2", ready=False)
    deadline = time.monotonic() + 30
    while not is_listening(loading.port):  # it has its port, and nothing yet to serve with
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert_port_is_refused(loading.port, "2")


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_port_is_refused(port: int, count: str) -> None:
    config = ServerConfig(host="127.0.0.1", port=port, api_server_count=int(count))
    with pytest.raises(ListenError) as refusal, bound(config):
        pass
    assert str(refusal.value) == (
        f"cannot listen on 127.0.0.1 port {port}: address already in use. "
        "Choose another with --port."
    )


def test_out_of_descriptors_is_a_503_and_no_broken_restart(start: Start) -> None:
    server = start(before="ulimit -Sn 100; ulimit -Hn 160;")
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    assert re.search(r"Max open files +160 +160", limits)
    with contextlib.ExitStack() as held:
        answers = []
        for _ in range(300):
            sock = held.enter_context(server.connect())
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET /version HTTP/1.1\r\n\r\n")
                answers.append(sock.recv(12)[9:])
        assert answers.count(b"200") >= 40
        assert answers.count(b"503") >= 30
        (engine,) = (
            int(child)
            for child in children(server.process.pid)
            if "scripted_engine" in Path(f"/proc/{child}/cmdline").read_text()
        )
        os.kill(engine, signal.SIGKILL)
        server.lines(1, of="The engine is ready again.")
    server.wait_until_ready()
    answer = httpx.post(server.url + "/v1/chat/completions", json=CHAT | {"max_tokens": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3


def children(process_id: int) -> list[str]:
    return Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
