"""The way of a step: every frame arrives whole and in order, through the ring or beside it."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import msgspec
import numpy as np
import pytest

from formgate.engine.ranks.channel import (
    NUM_SLOTS,
    LocalInbox,
    LocalReader,
    Outbox,
    RemoteInbox,
    SharedRing,
)
from formgate.engine.ranks.frame import Frame
from formgate.engine.ranks.messages import ClearBlocks, LeaderMessage, RunStep
from formgate.engine.step import BatchShape, PromptTargets, Step, StepLayout

SLOT_BYTES = 4096


class Ways:
    """Two local readers and a remote one."""

    def __init__(self) -> None:
        ring = SharedRing.create()
        self.ring = ring
        pairs = [socket.socketpair() for _ in range(3)]
        self._own = [own for own, _ in pairs]
        self.outbox = Outbox(ring, [LocalReader(own) for own in self._own[:2]], self._own[2:])
        self.inboxes = [
            LocalInbox(pairs[0][1], SharedRing(os.dup(ring.descriptor))),
            LocalInbox(pairs[1][1], SharedRing(os.dup(ring.descriptor))),
            RemoteInbox(pairs[2][1]),
        ]

    def close(self) -> None:
        for end in (*self._own, *self.inboxes, self.ring):
            end.close()


@pytest.fixture
def ways() -> Iterator[Ways]:
    with closing(Ways()) as ways:
        yield ways


def test_frames_arrive_whole_and_in_order(ways: Ways) -> None:
    """More than there are slots; small, large, and larger than a slot; before there is a ring too.
    Readers of different speed.
    """
    rng = random.Random(1)
    sent = [
        (ClearBlocks(list(range(rng.randrange(50)))), np.arange(rng.choice([0, 1, 7, 300, 2000])))
        for _ in range(60)
    ]
    received: list[list[tuple[object, list[int]]]] = [[] for _ in ways.inboxes]

    def read(reader: int) -> None:
        pause = threading.Event()
        for number in range(len(sent)):
            frame = ways.inboxes[reader].receive()
            if number % 13 == reader:
                pause.wait(0.01)  # so that rank 0 runs out of slots
            message = msgspec.msgpack.decode(frame.message, type=LeaderMessage)
            received[reader].append((message, frame.numbers.tolist()))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(3)]
    for thread in threads:
        thread.start()
    for number, (message, numbers) in enumerate(sent):
        if number == 5:
            ways.ring.allocate(SLOT_BYTES)
        ways.outbox.send(message, numbers)
    for thread in threads:
        thread.join(30)
    expected = [(message, numbers.tolist()) for message, numbers in sent]
    assert received == [expected] * 3


def test_a_slot_is_used_again_only_when_every_reader_has_read_it(ways: Ways) -> None:
    ways.ring.allocate(SLOT_BYTES)
    fast, slow, far = ways.inboxes
    done = threading.Event()

    def send() -> None:
        for number in range(NUM_SLOTS + 1):
            ways.outbox.send(ClearBlocks([number]))
        done.set()

    sender = threading.Thread(target=send)
    sender.start()
    blocks = [first_block(slow.receive())]
    for _ in range(NUM_SLOTS):
        first_block(fast.receive())
        first_block(far.receive())
    assert not done.is_set()  # the slow reader may still look at slot 0
    blocks += [first_block(slow.receive()) for _ in range(NUM_SLOTS)]
    sender.join(30)
    assert done.is_set()
    assert blocks == list(range(NUM_SLOTS + 1))


def first_block(frame: Frame) -> int:
    message = msgspec.msgpack.decode(frame.message, type=LeaderMessage)
    assert isinstance(message, ClearBlocks)
    return message.blocks[0]


def test_the_end_of_a_rank_is_an_error_and_no_wait(ways: Ways) -> None:
    ways.ring.allocate(SLOT_BYTES)
    ways.inboxes[1].close()
    with pytest.raises((OSError, EOFError)):
        ways.outbox.send(ClearBlocks([1]))


def test_the_end_of_rank_0_is_an_error(ways: Ways) -> None:
    ways.outbox.send(ClearBlocks([1]))
    for end in ways._own:
        end.close()
    for inbox in ways.inboxes:
        assert first_block(inbox.receive()) == 1
        with pytest.raises(EOFError):
            inbox.receive()


def test_a_step_arrives_as_it_was() -> None:
    layout = StepLayout(num_tokens=7, num_rows=3, num_logits=2)
    for shape, targets in (
        (None, ()),
        (BatchShape(8, 4, 2), (PromptTargets(0, 1, 2, [5, 6], 3), PromptTargets(1, 4, 0, [], 0))),
    ):
        numbers = np.arange(100)
        step = Step(numbers, layout, shape, 3, 2, 5, 2, 40, 1, True, targets)
        frame = Frame(msgspec.msgpack.encode(RunStep.of(step)), numbers[: step.num_numbers])
        memory = bytearray(frame.size)
        frame.write(memoryview(memory))
        found = Frame.read(memoryview(memory))
        message = msgspec.msgpack.decode(found.message, type=LeaderMessage)
        assert isinstance(message, RunStep)
        again = message.step(found.numbers)
        assert again.numbers.tolist() == numbers[: step.num_numbers].tolist()
        for name in Step.__slots__:
            if name != "numbers":
                assert getattr(again, name) == getattr(step, name)
