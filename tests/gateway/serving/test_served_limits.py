"""The application and its services behind real HTTP, over an engine process without an engine: who
may call it, and which of its limits end a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from formgate.engine.config import EngineConfig
from formgate.gateway.http.app import create_app
from formgate.gateway.http.shutdown import ShutdownRequest
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.served_models import ServedModels
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.assembly import build_state, max_in_flight
from formgate.gateway.serving.listener import bound
from formgate.gateway.serving.server import http_server

SCRIPTED_ENGINE = (sys.executable, str(Path(__file__).parents[1].joinpath("scripted_engine.py")))
CHAT = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
FEW = CHAT | {"max_tokens": 3}
ENDLESS = CHAT | {"max_tokens": 1900, "ignore_eos": True, "stream": True, "logprobs": True}
KEYS = ("first-key", "schlüssel", "ключ")
OPEN = ("/", "/health", "/ping", "/ready", "/version")


class Served:
    """A server in a thread of its own. `engine` is its engine's client."""

    def __init__(self, config: ServerConfig, folder: Path, *, max_num_seqs: int) -> None:
        self._config = config
        self._engine_config = EngineConfig(model_dir=folder, max_num_seqs=max_num_seqs)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(60)
        scheme = "https" if config.ssl_certfile else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        config, folder = self._config, self._engine_config.model_dir
        models = ServedModels.of(config)
        metrics = Metrics(models.default)
        self.engine = EngineClient(
            self._engine_config,
            metrics,
            max_in_flight=max_in_flight(config, self._engine_config, 0),
            command=SCRIPTED_ENGINE,
        )
        await self.engine.start()
        await self.engine.wait_ready()
        state = build_state(
            *(config, self._engine_config, folder, models, metrics, self.engine),
            metrics.own_exposition,
            number=0,
            shutdown=ShutdownRequest(),
        )
        self._server = http_server(config, create_app(state), metrics)
        with bound(config) as listener:
            self.port = 0 if config.uds else listener.getsockname()[1]
            serving = asyncio.create_task(self._server.serve(sockets=[listener]))
            self._ready.set()
            await serving
        await self.engine.close()
        state.compiling.close()

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def raw(self, head: bytes) -> tuple[int, bytes]:
        """The status of one request and all that was answered."""
        with self.connect() as sock:
            sock.sendall(head + b"Connection: close\r\n\r\n")
            answer = b""
            while part := sock.recv(65536):
                answer += part
        return int(answer.split()[1]), answer

    def tell_to_stop(self) -> None:
        self._server.should_exit = True

    def join(self) -> None:
        self._thread.join()


Serve = Callable[..., Served]


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
def serve(model_dir: Path) -> Iterator[Serve]:
    started: list[Served] = []

    def start(*, max_num_seqs: int = 4, **options: Any) -> Served:
        config = ServerConfig(**{"host": "127.0.0.1", "port": 0} | options)
        started.append(Served(config, model_dir, max_num_seqs=max_num_seqs))
        return started[-1]

    yield start
    for server in started:
        server.tell_to_stop()
    for server in started:
        server.join()


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> Served:
    return serve(api_key=KEYS, protect_metrics=True, root_path="/api")


# Keys.


def test_every_path_but_the_probes_needs_a_key(guarded: Served) -> None:
    key = {"Authorization": f"Bearer {KEYS[0]}"}
    api = httpx.get(guarded.url + "/openapi.json", headers=key).json()
    methods = {path: list(of) for path, of in api["paths"].items()}
    assert "/v1/messages" in methods
    for path in ("/docs", "/openapi.json", "/metrics", "/", "/docs/oauth2-redirect", "/redoc"):
        methods[path] = ["get"]
    for path, names in methods.items():
        for name in names:
            status = httpx.request(name, guarded.url + path).status_code
            assert (status == 401) == (path not in OPEN), (name, path, status)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_no_spelling_of_a_path_evades_the_key(guarded: Served, method: str) -> None:
    for target in (
        *("//v1/models", "/v1//models", "/V1/models", "/v1/models/", "/./v1/models"),
        *("/x/../v1/models", "/v1%2fmodels", "/%761/models", "/v1/models%00", "/v1/models;x"),
        *("/health/../v1/models", "/health%2f..%2fv1/models", "/api/v1/models", "/api//v1/models"),
        *("http://evil/v1/models", "/v1/models?/health", "/v1/models#/health", "/health/v1/models"),
        *("/metrics/", "//metrics", "/metrics%20", "/Metrics", "/docs/", "/openapi.json/"),
        *("/apihealth", "/api/health", "/v1/messages/../../health", "/tokenize/"),
    ):
        status, answer = guarded.raw(f"{method} {target} HTTP/1.1\r\nHost: x\r\n".encode())
        assert status == 401, (target, answer)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("header", [b"Authorization: Bearer ", b"x-api-key: "])
def test_a_key_of_any_script_opens(guarded: Served, encoding: str, header: bytes) -> None:
    for key in KEYS:
        with contextlib.suppress(UnicodeEncodeError):
            head = b"GET /v1/models HTTP/1.1\r\n" + header + key.encode(encoding) + b"\r\n"
            assert guarded.raw(head)[0] == 200
            assert guarded.raw(head[:-3] + b"\r\n")[0] == 401


def test_a_refusal_has_the_shape_of_its_api(guarded: Served) -> None:
    error = httpx.post(guarded.url + "/v1/messages", json={}).json()
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")


def test_each_key_has_its_own_salt_at_the_engine(
    guarded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    salts: dict[str, list[str | None]] = {}
    generate = guarded.engine.generate

    def watched(request: Any) -> Any:
        salts.setdefault(key, []).append(request.cache_salt)
        return generate(request)

    monkeypatch.setattr(guarded.engine, "generate", watched)
    hello = {"messages": CHAT["messages"], "max_tokens": 3}
    for path, body in {
        "/v1/chat/completions": hello,
        "/v1/completions": {"prompt": "hello", "max_tokens": 3},
        "/v1/responses": {"input": "hello", "max_output_tokens": 16},
        "/v1/messages": hello,
    }.items():
        for key in KEYS[:2]:
            headers = {"x-api-key": key.encode()}
            response = httpx.post(guarded.url + path, json=body, headers=headers)
            assert response.status_code == 200, response.text
    mine, other = (set(salts[key]) for key in KEYS[:2])
    assert len(mine) == len(other) == 1
    assert None not in mine | other
    assert mine != other


# Limits.


def test_a_client_that_reads_nothing_loses_its_place(serve: Serve) -> None:
    server = serve(max_num_seqs=1, max_queue_size=1, send_timeout=0.5)
    body = json.dumps(ENDLESS).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with server.connect() as one, server.connect() as two:
        one.sendall(head + body)
        two.sendall(head + body)
        url = server.url + "/v1/chat/completions"
        statuses = [429]
        while statuses[-1] == 429:  # both places are taken
            statuses.append(httpx.post(url, json=FEW).status_code)
        assert statuses[-1] == 200
        for sock in (one, two):
            sock.settimeout(0.5)  # the kernel does not always tell it of the end
            assert b"[DONE]" not in read_to_end(sock)  # it was cut, and did not end by itself


def read_to_end(sock: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(OSError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_an_answer_that_takes_too_long(serve: Serve) -> None:
    server = serve(request_timeout=0.4)
    for path in ("/v1/chat/completions", "/v1/messages"):
        body = {"messages": CHAT["messages"], "max_tokens": 1900}
        response = httpx.post(server.url + path, json=body, timeout=30)
        assert response.status_code == 504
        assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["type"] == "timeout_error"
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=ENDLESS) as response:
        *events, error, done = [line for line in response.iter_lines() if line]
    assert len(events) > 1
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "answer_timeout"
    assert done == "data: [DONE]"
    assert server.engine.num_in_flight == 0
    assert httpx.post(server.url + "/v1/chat/completions", json=FEW).status_code == 200


def test_tls_that_goes_wrong_in_every_phase(serve: Serve, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=x", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    server = serve(
        max_num_seqs=1,
        max_queue_size=0,
        ssl_keyfile=key,
        ssl_certfile=certificate,
        client_header_timeout=0.5,
        send_timeout=0.5,
    )
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    with server.connect() as silent, server.connect() as hello:
        hello.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")  # and the rest never comes
        assert read_to_end(silent) == b""
        assert read_to_end(hello) == b""
    with trusting.wrap_socket(server.connect()) as late:
        late.sendall(b"GET / HTTP/1.1\r\n")
        assert b" 408 " in late.recv(1000)
    with trusting.wrap_socket(server.connect()) as deaf:
        body = json.dumps(ENDLESS).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        deaf.sendall(head + body)
        with httpx.Client(verify=trusting) as client:
            while client.get(server.url + "/ready").status_code == 200:
                pass
            status = 429
            while status == 429:
                status = client.post(server.url + "/v1/chat/completions", json=FEW).status_code
        assert status == 200
        with contextlib.suppress(OSError):
            assert b"[DONE]" not in read_to_end(deaf)


def test_what_is_refused_before_it_is_a_request_is_counted(guarded: Served) -> None:
    key = {"x-api-key": KEYS[0]}
    before = refusals(httpx.get(guarded.url + "/metrics", headers=key).text)
    assert guarded.raw(b"GET / HTTP/1.1\r\nHost : x\r\n")[0] == 400
    after = refusals(httpx.get(guarded.url + "/metrics", headers=key).text)
    assert after == before + 1


def refusals(metrics: str) -> float:
    labels = ('handler="none"', 'method="other"', 'status="400"')
    lines = [line for line in metrics.splitlines() if all(one in line for one in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in lines if "_total{" in line)


def test_a_unix_socket_has_the_same_limits(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    serve(uds=path, client_header_timeout=0.3)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x") as client:
        assert client.get("/v1/models").status_code == 200
    for sent, status in ((b"GET /", b" 408 "), (b"GET /" + b"a" * 20_000, b" 414 ")):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(sent)
            assert status in sock.recv(1000)
