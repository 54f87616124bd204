"""What the HTTP side costs by itself: the real server process over an engine process that makes no
model run, and streams read by a client that does next to nothing. CPU seconds are the server
process' own, so they mean the same on a machine where server, engine and client share the cores.

    python benchmarks/front_end.py [--path chat|completions] [--streams 256] [--step-ms 40]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from formgate.engine.messages import (
    AbortRequests,
    AddRequest,
    EngineCommand,
    EngineReady,
    EngineStats,
    Shutdown,
    StepOutputs,
    TokenOutput,
)
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.engine_launch import EngineLaunch, end_with_parent
from formgate.gateway.serving.flags import parse_serve
from formgate.gateway.serving.listener import bound
from formgate.gateway.serving.server import run_server

PROGRAM = Path(__file__).resolve()
EMBEDDED = PROGRAM.parents[1] / "embedded"
STEP = "FORMGATE_BENCH_STEP"  # seconds of one step, for the engine process
PROFILE = "FORMGATE_BENCH_PROFILE"  # where the server process leaves its profile
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


# The engine process.


def run_engine() -> None:
    """Every running request has one random token a step; a step that is late is not made up for."""
    launch = EngineLaunch.decode(sys.stdin.buffer.readline())
    end_with_parent()
    step_seconds = float(os.environ[STEP])
    tokenizer = load_tokenizer(launch.tokenizer_dir)
    special = tokenizer.marker_ids
    ids = [i for i in range(tokenizer.size) if i not in special and _is_text(tokenizer, i)]
    draw = random.Random(0)
    context = zmq.Context()
    commands = context.socket(zmq.PULL)
    events = []
    addresses = [(launch.command_address, launch.event_address), *launch.more_clients]
    for command_address, event_address in addresses:
        commands.connect(command_address)
        events.append(context.socket(zmq.PUSH))
        events[-1].set(zmq.SNDHWM, 0)
        events[-1].connect(event_address)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(EngineCommand)

    for client in events:
        client.send(encoder.encode(EngineReady(8192, 4096, 16, tokenizer.size, "none", "none")))
    left: dict[str, int] = {}
    asked_by: dict[str, int] = {}
    while True:
        while commands.poll(0 if left else 1000):
            match decoder.decode(commands.recv()):
                case AddRequest(request_id=request_id, params=params, client=client):
                    left[request_id] = params.max_tokens
                    asked_by[request_id] = client
                case AbortRequests(request_ids=request_ids):
                    for request_id in request_ids:
                        left.pop(request_id, None)
                case Shutdown():
                    return
        if not left:
            continue
        end = time.monotonic() + step_seconds
        outputs: list[list[TokenOutput]] = [[] for _ in events]
        for request_id in list(left):
            left[request_id] -= 1
            output = TokenOutput(request_id, [draw.choice(ids)])
            if left[request_id] == 0:
                output.finish_reason = "length"
                del left[request_id]
            outputs[asked_by[request_id]].append(output)
        stats = EngineStats(len(left), 0, 0.5, num_batched_tokens=1)
        for client, share in zip(events, outputs, strict=True):
            if share:
                client.send(encoder.encode(StepOutputs(share, stats)))
        time.sleep(max(0.0, end - time.monotonic()))


def _is_text(tokenizer, token_id: int) -> bool:
    try:
        return bool(tokenizer.token_bytes[token_id].decode())
    except UnicodeDecodeError:
        return False


# The server process.


def run_front_end(arguments: list[str]) -> None:
    command = parse_serve(arguments, prog="front_end")
    folder = Path(command.server.model or EMBEDDED)
    engine = (sys.executable, str(PROGRAM), "engine")
    profile = cProfile.Profile() if PROFILE in os.environ else None
    with bound(command.server) as listener:
        if profile:
            profile.enable()
        run_server(command.server, command.engine(folder), folder, listener, engine_command=engine)
        if profile:
            profile.disable()
            profile.dump_stats(os.environ[PROFILE])


# The client.


@dataclass
class Counted:
    events: int = 0
    writes: int = 0
    completion_tokens: int = 0


class Stream(asyncio.Protocol):
    """Sends one request and counts what comes back; only the event with the usage is read."""

    def __init__(self, request: bytes, counted: Counted, done: asyncio.Future[None]) -> None:
        self._request = request
        self._counted = counted
        self._done = done
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._counted.writes += 1
        self._counted.events += data.count(b'data: {"')
        self._tail = (self._tail + data)[-2000:]

    def connection_lost(self, error: Exception | None) -> None:
        end = self._tail.rpartition(b'"completion_tokens":')[2]
        if b"data: [DONE]" not in end:
            self._done.set_exception(RuntimeError(f"cut off: {self._tail[-300:]!r}"))
            return
        self._counted.completion_tokens += int(end.partition(b",")[0])
        self._done.set_result(None)


async def load(port: int, path: str, bodies: list[bytes]) -> Counted:
    loop = asyncio.get_running_loop()
    counted = Counted()
    streams = []
    for body in bodies:
        head = f"POST {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        done = loop.create_future()
        request = head.encode() + body
        await loop.create_connection(
            lambda request=request, done=done: Stream(request, counted, done), "127.0.0.1", port
        )
        streams.append(done)
    await asyncio.gather(*streams)
    return counted


def bodies_of(path: str, count: int, tokens: int) -> tuple[str, list[bytes]]:
    body = {
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if path == "chat":
        body["messages"] = [{"role": "user", "content": "Tell me about the river."}]
        return "/v1/chat/completions", [json.dumps(body).encode()] * count
    body["prompt"] = "The river"
    return "/v1/completions", [json.dumps(body).encode()] * count


# The measurement.


def cpu_seconds(process_ids: list[int]) -> tuple[float, float]:
    """In all, and of that in the kernel, where the sockets' share is."""
    user = kernel = 0
    for process_id in process_ids:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        user, kernel = user + int(fields[11]), kernel + int(fields[12])
    return (user + kernel) / CLOCK_TICKS, kernel / CLOCK_TICKS


def front_ends(process_id: int) -> list[int]:
    """The server process, and what it started to speak HTTP with."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    spoken = [
        int(child)
        for child in children
        if b"api_server" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return [process_id, *spoken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", choices=("chat", "completions"), default="chat")
    parser.add_argument("--model", default=str(EMBEDDED), help="folder with a tokenizer")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--step-ms", type=float, default=40.0, help="0: as fast as it goes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--api-server-count", type=int, default=1)
    parser.add_argument("--profile", help="file for the server process' cProfile (slows it)")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {STEP: str(options.step_ms / 1000)}
    if options.profile:
        environment[PROFILE] = options.profile
    arguments = [options.model, "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--disable-log-requests", "--max-num-seqs", str(options.streams)]
    if options.api_server_count > 1:
        arguments += ["--api-server-count", str(options.api_server_count)]
    server = subprocess.Popen(
        [sys.executable, str(PROGRAM), "serve", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        if not any(line.startswith("formgate ready") for line in iter(server.stdout.readline, "")):
            raise SystemExit("the server did not start")
        path, bodies = bodies_of(options.path, options.streams, options.tokens)
        asyncio.run(load(port, path, bodies[:16]))  # first uses of everything
        for _ in range(options.rounds):
            spoken = front_ends(server.pid)
            (cpu, kernel), began = cpu_seconds(spoken), time.monotonic()
            counted = asyncio.run(load(port, path, bodies))
            seconds, after = time.monotonic() - began, cpu_seconds(spoken)
            cpu, kernel = after[0] - cpu, after[1] - kernel
            tokens = counted.completion_tokens
            assert tokens == options.streams * options.tokens, counted
            figures = {
                "tokens": tokens,
                "tokens_per_s": round(tokens / seconds),
                "cpu_us_per_token": round(1e6 * cpu / tokens, 1),
                "kernel_us_per_token": round(1e6 * kernel / tokens, 1),
                "cpu_s_per_1000_tokens": round(1e3 * cpu / tokens, 4),
                "tokens_per_cpu_s": round(tokens / cpu),
                "events_per_token": round(counted.events / tokens, 3),
                "reads_per_token": round(counted.writes / tokens, 3),
            }
            print(json.dumps(figures), flush=True)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["engine"]:
            run_engine()
        case ["serve"]:
            run_front_end(sys.argv[2:])
        case _:
            main()
