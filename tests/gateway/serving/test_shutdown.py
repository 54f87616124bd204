"""How a server process stops: what is under way ends well or is ended, and nothing is left over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

CHAT = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
ENDLESS = CHAT | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
Start = Callable[..., Any]


def is_running(process_id: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_all(condition: Callable[[], bool]) -> None:
    """Until each process of a server says so: 20 connections in a row."""
    until(lambda: all(condition() for _ in range(20)))


def command_of(process_id: int) -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{process_id}/cmdline").read_text()
    return ""


def descendants(process_id: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process_id}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def engine_of(server: Any) -> int:
    (engine,) = [each for each in server.children() if "scripted_engine" in command_of(each)]
    return engine


class Stream:
    """One streamed answer, read in a thread."""

    def __init__(self, url: str, body: dict[str, Any] = ENDLESS) -> None:
        self.lines: list[str] = []
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(url, body))
        self._thread.start()
        assert self.begun.wait(30)

    def _read(self, url: str, body: dict[str, Any]) -> None:
        with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=120) as response:
            for line in response.iter_lines():
                self.lines += [line.removeprefix("data: ")] if line else []
                self.begun.set()

    def rest(self) -> list[Any]:
        """Its events to the end, without [DONE]."""
        self._thread.join(120)
        assert not self._thread.is_alive()
        assert self.lines[-1] == "[DONE]"
        return [json.loads(line) for line in self.lines[:-1]]


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose temporary folder has to be empty afterwards."""
    folder = Path("/tmp") / f"{tmp_path.name[-8:]}-{os.getpid()}"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    left = list(folder.rglob("*"))
    shutil.rmtree(folder, ignore_errors=True)
    assert not left


def test_answers_under_way_are_finished_and_new_requests_refused(
    start: Start, temporary: dict[str, str]
) -> None:
    server = start("--shutdown-timeout", "600", "--engine-timeout", "0", env=temporary)
    engine = engine_of(server)
    processes = descendants(server.process.pid)
    stream = Stream(server.url, ENDLESS | {"max_tokens": 1000})
    os.kill(engine, signal.SIGSTOP)  # so that the answer is under way for as long as the test wants
    no_reuse = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client() as kept_alive, httpx.Client(limits=no_reuse) as connecting:
        assert kept_alive.get(server.url + "/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        until(lambda: connecting.get(server.url + "/ready").status_code == 503)
        for client in (kept_alive, connecting):
            ready = client.get(server.url + "/ready")
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            for body in (CHAT, ENDLESS):
                refused = client.post(server.url + "/v1/chat/completions", json=body)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "server_stopping"
                assert refused.headers["connection"] == "close"
                assert int(refused.headers["retry-after"]) > 0
            assert client.get(server.url + "/health").status_code == 200
    os.kill(engine, signal.SIGCONT)
    events = stream.rest()
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert server.wait() == 0
    until(lambda: not any(map(is_running, processes)))
    assert not any("Traceback" in line for line in server.lines)


@pytest.mark.parametrize("count", ["1", "2"])
def test_requests_are_taken_until_load_balancers_have_noticed(
    start: Start, temporary: dict[str, str], count: str
) -> None:
    server = start("--shutdown-delay", "600", "--api-server-count", count, env=temporary)
    processes = descendants(server.process.pid)
    no_reuse = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(limits=no_reuse, timeout=60) as client:
        assert client.get(server.url + "/health").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        until_all(lambda: client.get(server.url + "/health").status_code == 503)
        for _ in range(20):
            assert client.get(server.url + "/ready").status_code == 503
            answer = client.post(server.url + "/v1/chat/completions", json=CHAT | {"max_tokens": 3})
            assert answer.status_code == 200
    stream = Stream(server.url)
    server.process.send_signal(signal.SIGTERM)  # a second one does not wait
    assert stream.rest()[-1]["error"]["code"] == "server_stopping"
    assert server.wait() == 128 + signal.SIGTERM
    until(lambda: not any(map(is_running, processes)))


def test_answers_after_the_delay_are_finished_and_new_requests_refused(start: Start) -> None:
    server = start("--shutdown-delay", "0.5", "--shutdown-timeout", "600", "--engine-timeout", "0")
    engine = engine_of(server)
    stream = Stream(server.url, ENDLESS | {"max_tokens": 1000})
    os.kill(engine, signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)

    def is_refused() -> bool:
        try:  # one that is taken waits for the engine
            answer = httpx.post(server.url + "/v1/chat/completions", json=CHAT, timeout=1)
        except httpx.ReadTimeout:
            return False
        return answer.status_code == 503

    until(is_refused)
    os.kill(engine, signal.SIGCONT)
    assert stream.rest()[-1]["choices"][0]["finish_reason"] == "length"
    assert server.wait() == 0


def test_an_operator_does_not_wait_for_load_balancers(start: Start) -> None:
    server = start("--shutdown-delay", "600", "--api-server-count", "2")
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0


def test_answers_that_take_too_long_end_with_an_error(
    start: Start, temporary: dict[str, str]
) -> None:
    server = start("--shutdown-timeout", "0.2", "--api-server-count", "2", env=temporary)
    children = descendants(server.process.pid)
    streams = [Stream(server.url) for _ in range(6)]
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        assert stream.rest()[-1]["error"]["code"] == "server_stopping"
    os.kill(engine, signal.SIGCONT)
    assert server.wait() == 0
    until(lambda: not any(map(is_running, children)))
    assert not any("Traceback" in line for line in server.lines)


def test_a_whole_answer_that_takes_too_long_is_a_503(start: Start) -> None:
    server = start("--shutdown-timeout", "0.2")
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(server.url + "/v1/chat/completions", json=CHAT, timeout=120))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(established(server)) == 1)
    server.process.send_signal(signal.SIGTERM)
    thread.join(60)
    os.kill(engine, signal.SIGCONT)
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "server_stopping"
    assert server.wait() == 0


def established(server: Any) -> list[str]:
    """Connections to the server that have been accepted and whose requests have been read."""
    port = int(server.url.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = [line for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"]
    return [line[9] for line in own if line[4].endswith(":00000000")]


def test_a_second_signal_ends_answers_at_once(start: Start, temporary: dict[str, str]) -> None:
    server = start("--api-server-count", "2", "--shutdown-timeout", "600", env=temporary)
    children = descendants(server.process.pid)
    streams = [Stream(server.url) for _ in range(6)]
    server.process.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(server.url + "/ready").status_code == 503)
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        assert stream.rest()[-1]["error"]["code"] == "server_stopping"
    assert server.wait() == 128 + signal.SIGTERM
    until(lambda: not any(map(is_running, children)))
    assert not any("Traceback" in line for line in server.lines)


def test_a_signal_to_every_process_is_a_signal_to_the_server(start: Start) -> None:
    """As systemd sends it."""
    server = start("--api-server-count", "2", "--shutdown-timeout", "600")
    processes = descendants(server.process.pid)
    streams = [Stream(server.url, ENDLESS | {"max_tokens": 300}) for _ in range(6)]
    assert any("compile_worker" in command_of(each) for each in processes)
    for process in (*processes, server.process.pid):
        os.kill(process, signal.SIGTERM)
    for stream in streams:
        assert stream.rest()[-1]["choices"][0]["finish_reason"] == "length"
    assert server.wait() == 0
    until(lambda: not any(map(is_running, processes)))


def test_a_server_that_is_loading_stops(
    start: Start, model_folder: Path, tmp_path: Path, temporary: dict[str, str]
) -> None:
    slow = tmp_path / "slow"
    slow.symlink_to(model_folder)
    server = start("--api-server-count", "2", model=slow, wait_ready=False, env=temporary)
    until(lambda: any("Loading weights" in line for line in server.lines))
    children = descendants(server.process.pid)
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGTERM
    until(lambda: not any(map(is_running, children)))
    assert not any("Traceback" in line or "error" in line for line in server.lines)


# A download has threads that nobody can interrupt, and waits for them whatever happens.
DOWNLOADING = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from formgate.gateway import cli

def download(name, **options):
    with ThreadPoolExecutor(1) as pool:
        began = pool.submit(lambda: print("downloading", flush=True))
        pool.submit(threading.Event().wait)

cli.resolve_model = download
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_downloading_stops(tmp_path: Path, number: int) -> None:
    path = tmp_path / "socket"
    process = subprocess.Popen(
        [sys.executable, "-c", DOWNLOADING, "serve", "a/b", "--uds", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "downloading\n"
        assert path.is_socket()
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert not path.exists()


# As a container's first process. A user who may not have a namespace of processes skips this.
UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
INIT = """
import sys
from formgate.gateway.container_init import run_as_init
sys.exit(run_as_init(sys.argv[1:]))
"""


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


in_container = pytest.mark.skipif(not can_unshare(), reason="no namespace of processes")


def as_first_process(server: Any) -> int:
    """The process that unshare started."""
    until(lambda: server.children())
    (first,) = server.children()
    return int(first)


@in_container
def test_the_first_process_of_a_container_stops_as_any_other(start: Start) -> None:
    server = start("--shutdown-timeout", "600", prefix=(*UNSHARE, sys.executable, "-c", INIT))
    processes = descendants(server.process.pid)
    stream = Stream(server.url, ENDLESS | {"max_tokens": 100})
    os.kill(as_first_process(server), signal.SIGTERM)
    assert stream.rest()[-1]["choices"][0]["finish_reason"] == "length"
    assert server.wait() == 0
    until(lambda: not any(map(is_running, processes)))


@in_container
def test_the_first_process_of_a_container_stops_while_it_loads(
    start: Start, model_folder: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.symlink_to(model_folder)
    server = start(model=slow, wait_ready=False, prefix=(*UNSHARE, sys.executable, "-c", INIT))
    until(lambda: any("Loading weights" in line for line in server.lines))
    processes = descendants(server.process.pid)
    os.kill(as_first_process(server), signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGTERM
    until(lambda: not any(map(is_running, processes)))


ORPHAN = """
import os, sys, time
from pathlib import Path

assert os.getpid() != 1
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)  # nobody's child but process 1's
    os._exit(0)
os.wait()
while any(
    stat.read_text().split()[3] == "1" and "Z" in stat.read_text().split()[2]
    for stat in Path("/proc").glob("[0-9]*/stat")
):
    time.sleep(0.01)
os.kill(os.getpid(), int(sys.argv[1])) if len(sys.argv) > 1 else sys.exit(7)
"""


@in_container
@pytest.mark.parametrize(("arguments", "code"), [((), 7), (("9",), 137)])
def test_the_first_process_of_a_container_reaps_and_ends_as_its_child(
    arguments: tuple[str, ...], code: int
) -> None:
    command = [*UNSHARE, sys.executable, "-c", INIT, sys.executable, "-c", ORPHAN, *arguments]
    assert subprocess.run(command, timeout=120).returncode == code


@in_container
def test_the_command_looks_after_itself_as_a_first_process() -> None:
    command = [*UNSHARE, sys.executable, "-m", "formgate.gateway", "--port", "99999"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (
        1,
        "formgate: error: 99999 is not a port (0 to 65535).\n",
    )
