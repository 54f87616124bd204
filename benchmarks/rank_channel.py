"""Time that a step takes from rank 0 to the other ranks of its host, without a model and a device.

    python benchmarks/rank_channel.py --ranks 2 4 8 --rows 1 64 256 --context 8192

`send` is what rank 0 spends per step; `arrived` ends when the last rank has copied the numbers.
Each rank is a process; rank 0 waits for all of them after each step.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import statistics
import subprocess
import sys
import time

import msgspec
import numpy as np

from formgate.engine.ranks.channel import LocalInbox, LocalReader, Outbox, SharedRing
from formgate.engine.ranks.messages import LeaderMessage, RunStep, Stop
from formgate.engine.step import Step, StepLayout

BLOCK_SIZE = 16


def read_steps(wake: int, ring: int, reply: int) -> None:
    """A rank: copy each step's numbers, and say so."""
    inbox = LocalInbox(socket.socket(fileno=wake), SharedRing(ring))
    answers = socket.socket(fileno=reply)
    decoder = msgspec.msgpack.Decoder(LeaderMessage)
    numbers = np.zeros(1 << 24, np.int64)
    while True:
        frame = inbox.receive()
        message = decoder.decode(frame.message)
        if not isinstance(message, RunStep):
            return
        numbers[: frame.numbers.size] = frame.numbers
        message.step(numbers)
        answers.sendall(b"\0")


def decode_step(rows: int, context: int) -> Step:
    layout = StepLayout(rows, rows, rows)
    width = -(-context // BLOCK_SIZE)
    size = layout.int32_start + -(-(layout.block_tables + rows * width) // 2)
    numbers = np.zeros(size, np.int64)
    return Step(numbers, layout, None, rows, rows, width, 1, context, 1, True)


def measure(ranks: int, rows: int, context: int, steps: int) -> tuple[float, float, float]:
    """(kB of numbers, microseconds of `send`, microseconds of `arrived`), medians"""
    ring = SharedRing.create()
    wakes = [socket.socketpair() for _ in range(ranks - 1)]
    replies = [socket.socketpair() for _ in range(ranks - 1)]
    children = []
    for (_, wake), (_, reply) in zip(wakes, replies, strict=True):
        descriptors = (wake.fileno(), ring.descriptor, reply.fileno())
        command = [sys.executable, __file__, "--read", *map(str, descriptors)]
        children.append(subprocess.Popen(command, pass_fds=descriptors))
    step = decode_step(rows, context)
    ring.allocate(step.numbers.nbytes + (1 << 16))
    outbox = Outbox(ring, [LocalReader(own) for own, _ in wakes], [])
    sending, arriving = [], []
    for _ in range(steps):
        start = time.perf_counter()
        outbox.send(RunStep.of(step), step.numbers[: step.num_numbers])
        sent = time.perf_counter()
        for own, _ in replies:
            own.recv(1)
        sending.append(sent - start)
        arriving.append(time.perf_counter() - start)
    outbox.send(Stop())
    for child in children:
        child.wait()
    half = steps // 2  # processes start in the first half
    return (
        step.numbers.nbytes / 1000,
        statistics.median(sending[half:]) * 1e6,
        statistics.median(arriving[half:]) * 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--read", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_steps(*options.read)
        return
    print("| ranks | rows | kB | send, us | arrived, us |\n|---|---|---|---|---|")
    for ranks, rows in itertools.product(options.ranks, options.rows):
        size, send, arrived = measure(ranks, rows, options.context, options.steps)
        print(f"| {ranks} | {rows} | {size:.0f} | {send:.0f} | {arrived:.0f} |", flush=True)


if __name__ == "__main__":
    main()
