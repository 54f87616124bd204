"""An engine process without an engine: it speaks the two sockets' protocol and does what the prompt
says, so that supervision is tested in milliseconds. Run as a program by `test_engine_client`.

Prompt [n] counts up, one token a step; [666] kills the process, [777] stops it as `kill -STOP` does
and [888] makes it say what nobody can read; [404] ends with an error and [405] with one that is the
request's fault; [0] tells how many requests were aborted and how many are running.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec
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
    EngineStats,
    LoadProgress,
    Release,
    Shutdown,
    StepOutputs,
    TokenOutput,
)
from formgate.gateway.processes.engine_launch import EngineLaunch, end_with_parent

STEP = 0.002  # seconds


def main() -> None:
    launch = EngineLaunch.decode(sys.stdin.buffer.readline())
    end_with_parent()
    context = zmq.Context()
    commands = context.socket(zmq.PULL)
    clients = []
    for command_address, event_address in (
        (launch.command_address, launch.event_address),
        *launch.more_clients,
    ):
        commands.connect(command_address)
        clients.append(context.socket(zmq.PUSH))
        clients[-1].connect(event_address)
    decoder = msgspec.msgpack.Decoder(EngineCommand)

    def tell(event: EngineEvent, client: int = 0) -> None:
        clients[client].send(msgspec.msgpack.encode(event))

    match launch.config.model_dir.name:
        case "broken":
            tell(EngineFailed("The weights are no weights."))
            time.sleep(30)  # the client lets go, and that ends it
        case "slow":
            tell(LoadProgress("Loading weights", 1, 2))
            time.sleep(600)
        case "crash":
            os._exit(7)
    tell(LoadProgress("Loading weights", 1, 2))
    ready = EngineReady(2048, 100, 16, 300, "cpu", "float32")
    for client in range(len(clients)):
        tell(ready, client)

    running: dict[str, tuple[AddRequest, int]] = {}
    held: dict[str, AddRequest] = {}
    aborted = 0
    while True:
        while commands.poll(0 if running else 1000):
            command = decoder.decode(commands.recv())
            match command:
                case AddRequest(held=True):
                    held[command.request_id] = command
                case Release():
                    assert command.constraint == "known by now"
                    running[command.request_id] = (held.pop(command.request_id), 0)
                case AddRequest():
                    running[command.request_id] = (command, 0)
                case AbortRequests():
                    aborted += len(command.request_ids)
                    for request_id in command.request_ids:
                        running.pop(request_id, None)
                        held.pop(request_id, None)
                case Attach():
                    for request_id, (request, _) in list(running.items()):
                        if request.client == command.client:
                            del running[request_id]
                    tell(ready, command.client)
                case Shutdown():
                    return
        if not running:
            tell(EngineIdle())
        outputs: list[list[TokenOutput]] = [[] for _ in clients]
        for request_id, (request, count) in list(running.items()):
            count += 1
            output = TokenOutput(request_id, [count], queue_time=0.001)
            if request.prompt_token_ids == [666]:
                os._exit(9)
            elif request.prompt_token_ids == [777]:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif request.prompt_token_ids == [888]:
                clients[request.client].send(b"\xc1")
                continue
            elif request.prompt_token_ids == [404]:
                output = TokenOutput(request_id, [], "error", error="No mask is left.")
            elif request.prompt_token_ids == [405]:
                output = TokenOutput(request_id, [], "error", error="Too much.", fault="constraint")
            elif request.prompt_token_ids == [0]:
                output = TokenOutput(request_id, [aborted, len(running) - 1], "stop")
            elif count == request.params.max_tokens:
                output.finish_reason = "length"
            outputs[request.client].append(output)
            if output.finish_reason:
                del running[request_id]
            else:
                running[request_id] = (request, count)
        for client, told in enumerate(outputs):
            if told:
                stats = EngineStats(len(running), 0, 0.5, num_batched_tokens=1)
                tell(StepOutputs(told, stats), client)
        if any(outputs):
            time.sleep(STEP)


if __name__ == "__main__":
    main()
