"""The real loop in a process of its own, over real sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from formgate.engine.messages import (
    AbortRequests,
    AddRequest,
    Attach,
    EngineCommand,
    EngineEvent,
    EngineFailed,
    EngineIdle,
    EngineReady,
    LoadProgress,
    Shutdown,
    StepOutputs,
    TokenOutput,
)
from formgate.engine.sampling_params import SamplingParams

CHILD = """
import sys
from pathlib import Path
from formgate.engine.config import EngineConfig
from formgate.engine.loop import run_engine_loop
from formgate.engine.sampling.masks import one_by_one

def factory(text):
    raise ValueError("no such grammar: " + text)

config = EngineConfig(
    model_dir=Path(sys.argv[1]), device="cpu", dtype="float32", block_size=4, max_num_seqs=8,
    kv_cache_memory_bytes=1 << 20,
)
more = list(zip(sys.argv[4::2], sys.argv[5::2]))
run_engine_loop(
    config, lambda: (factory, one_by_one), sys.argv[2], sys.argv[3], more_clients=more
)
"""
# A parent that starts the loop, tells its process id and waits to be killed.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(child.pid, flush=True)
time.sleep(600)
"""
TIMEOUT = 60.0  # seconds; a start takes a few on a busy machine


class Peer:
    """The gateway's ends of both sockets."""

    def __init__(self, folder: Path) -> None:
        self._context = zmq.Context()
        self.command_address = f"ipc://{folder}/commands"
        self.event_address = f"ipc://{folder}/events"
        self._commands = self._context.socket(zmq.PUSH)
        self._commands.bind(self.command_address)
        self._events = self._context.socket(zmq.PULL)
        self._events.bind(self.event_address)

    def send(self, command: EngineCommand) -> None:
        self._commands.send(msgspec.msgpack.encode(command))

    def receive(self, timeout: float = TIMEOUT) -> EngineEvent:
        while True:
            assert self._events.poll(int(timeout * 1000)), "the engine says nothing"
            event = msgspec.msgpack.decode(self._events.recv(), type=EngineEvent)
            if not isinstance(event, EngineIdle):
                return event

    def wait_ready(self) -> tuple[EngineReady, list[LoadProgress]]:
        progress: list[LoadProgress] = []
        while True:
            event = self.receive()
            if isinstance(event, EngineReady):
                return event, progress
            assert isinstance(event, LoadProgress), event
            progress.append(event)

    def outputs_of(self, request_id: str) -> list[TokenOutput]:
        found: list[TokenOutput] = []
        while not found or found[-1].finish_reason is None:
            event = self.receive()
            assert isinstance(event, StepOutputs), event
            found += [output for output in event.outputs if output.request_id == request_id]
        return found

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path)
    yield peer
    peer.close()


Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(peer: Peer) -> Iterator[Start]:
    children: list[subprocess.Popen] = []

    def start_loop(model_dir: Path, *more: Peer) -> subprocess.Popen:
        arguments = [str(model_dir)]
        for each in (peer, *more):
            arguments += [each.command_address, each.event_address]
        child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments])
        children.append(child)
        return child

    yield start_loop
    for child in children:
        child.kill()
        child.wait()


def request(name: str, *, max_tokens: int = 5, constraint: str | None = None) -> AddRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return AddRequest(name, [5, 6, 7, 8, 9], params, constraint=constraint)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_life(peer: Peer, start: Start, llama_dir: Path, make_engine) -> None:
    child = start(llama_dir)
    ready, progress = peer.wait_ready()
    assert ready == EngineReady(
        max_model_len=128,
        num_blocks=8 * 32,
        block_size=4,
        vocab_size=131,
        device="cpu",
        dtype="float32",
    )
    assert progress[0].done == 0
    loading = [event for event in progress if event.stage == "loading weights"]
    assert loading[-1].done == loading[-1].total > 0

    peer.send(request("a"))
    peer.send(request("b", max_tokens=3))
    peer.send(request("bad", constraint="x"))
    steps: list[StepOutputs] = []
    finished: dict[str, str | None] = {}
    tokens: dict[str, list[int]] = {"a": [], "b": [], "bad": []}
    while len(finished) < 3:
        event = peer.receive()
        assert isinstance(event, StepOutputs)
        steps.append(event)
        for output in event.outputs:
            tokens[output.request_id] += output.token_ids
            if output.finish_reason is not None:
                finished[output.request_id] = output.finish_reason
    assert finished == {"a": "length", "b": "length", "bad": "error"}
    expected = make_engine().generate([5, 6, 7, 8, 9], params={"max_tokens": 5}).token_ids
    assert (tokens["a"], tokens["b"]) == (expected, expected[:3])
    assert any(len(step.outputs) > 1 for step in steps), "outputs of a step come together"
    assert steps[-1].stats.num_running == 0

    # An abort ends a request that would run for long.
    peer.send(request("long", max_tokens=100))
    peer.send(AbortRequests(["long"]))
    assert peer.outputs_of("long")[-1].finish_reason == "abort"

    wait_until_idle(child.pid)

    peer.send(request("last", max_tokens=2))
    assert len(peer.outputs_of("last")) == 2
    peer.send(Shutdown())
    assert child.wait(TIMEOUT) == 0


def test_the_requests_of_a_client_that_died_are_aborted(
    peer: Peer, start: Start, llama_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Peer(tmp_path / "other")
    try:
        child = start(llama_dir, other)
        ready, _ = peer.wait_ready()
        assert other.wait_ready()[0] == ready
        peer.send(request("stays", max_tokens=100))
        other.send(msgspec.structs.replace(request("orphan", max_tokens=100), client=1))
        other.send(Attach(1))
        while (event := other.receive()) != ready:
            assert isinstance(event, StepOutputs)
        other.send(msgspec.structs.replace(request("new", max_tokens=100), client=1))
        news = [token for output in other.outputs_of("new") for token in output.token_ids]
        ended: dict[str, str] = {}
        while len(ended) < 2:
            step = peer.receive()
            assert isinstance(step, StepOutputs)
            ended |= {
                one.request_id: one.finish_reason for one in step.outputs if one.finish_reason
            }
        assert ended == {"orphan": "abort", "stays": "length"}
        assert len(news) == 100
        peer.send(Shutdown())
        assert child.wait(TIMEOUT) == 0
    finally:
        other.close()


def wait_until_idle(pid: int) -> None:
    """It waits for requests and does not spin. Threads of torch may spin for a while first."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        before = cpu_seconds(pid)
        time.sleep(0.5)
        if cpu_seconds(pid) - before < 0.05:
            return
        assert time.monotonic() < deadline, "it is never idle"


def test_a_start_that_fails_says_why_in_one_line(peer: Peer, start: Start, tmp_path: Path) -> None:
    child = start(tmp_path / "no model here")
    event = peer.receive()
    assert isinstance(event, EngineFailed)
    assert "no model here" in event.message
    assert "\n" not in event.message
    assert child.wait(TIMEOUT) == 1


def test_an_orphan_ends_by_itself(peer: Peer, llama_dir: Path) -> None:
    arguments = [CHILD, str(llama_dir), peer.command_address, peer.event_address]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            peer.wait_ready()
            parent.kill()
            deadline = time.monotonic() + TIMEOUT
            while is_alive(pid):
                assert time.monotonic() < deadline, "the orphan lives on"
                time.sleep(0.05)
        finally:
            parent.kill()
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
