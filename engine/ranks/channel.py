"""The way of a message from rank 0 to the other ranks: to those of its host through shared memory,
to those of other hosts over TCP. Nobody polls: a reader sleeps in `recv` until a message is there.

Between processes of one host, a socket carries 8 bytes for each message. They are positive if the
message lies in the next slot of the ring, and negative if it follows on the socket (as all do until
the ring has its size). The system call also orders the accesses to the slot. The reader returns a
byte for each slot that it has read, and rank 0 reads these bytes only when no slot is left.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from formgate.engine.config import encode_path
from formgate.engine.ranks.connection import receive_exactly, receive_length
from formgate.engine.ranks.frame import LENGTH, NO_NUMBERS, Frame
from formgate.engine.ranks.messages import LeaderMessage

NUM_SLOTS = 4  # rank 0 is at most two steps ahead of its device, which waits for the other ranks


class SharedRing:
    """`NUM_SLOTS` equal slots in anonymous shared memory, which is inherited by descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None
        self._slots: list[memoryview] = []
        self._turn = 0

    @classmethod
    def create(cls) -> SharedRing:
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("formgate-steps"))
        descriptor, path = tempfile.mkstemp(prefix="formgate-steps-")
        os.unlink(path)
        return cls(descriptor)

    def allocate(self, slot_bytes: int) -> None:
        """Give the ring its size; a multiple of 8 bytes for each slot."""
        assert slot_bytes % LENGTH.size == 0
        os.ftruncate(self.descriptor, NUM_SLOTS * slot_bytes)

    @property
    def slot_bytes(self) -> int:
        """0 until `allocate`."""
        if not self._slots:
            self._map()
        return len(self._slots[0]) if self._slots else 0

    def next_slot(self) -> memoryview:
        """Slots are used in turn."""
        if not self._slots:
            self._map()
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % NUM_SLOTS
        return slot

    def _map(self) -> None:
        size = os.fstat(self.descriptor).st_size
        if size:
            self._memory = mmap.mmap(self.descriptor, size)
            view = memoryview(self._memory)
            slot = size // NUM_SLOTS
            self._slots = [view[i * slot : (i + 1) * slot] for i in range(NUM_SLOTS)]

    def close(self) -> None:
        """Close the descriptor. The memory stays while a frame is a view of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class LocalReader:
    """Rank 0's end of the socket to a rank on its host."""

    def __init__(self, wake: socket.socket) -> None:
        self.wake = wake
        self._unread = 0  # slots that the rank may not have read yet

    def send_inline(self, frame: Frame, payload: bytearray) -> None:
        self.wake.sendall(LENGTH.pack(-frame.size) + payload)

    def await_free_slot(self) -> None:
        while self._unread >= NUM_SLOTS:
            read = self.wake.recv(NUM_SLOTS)
            if not read:
                raise EOFError("the rank is gone")
            self._unread -= len(read)

    def announce_slot(self, size: int) -> None:
        self._unread += 1
        self.wake.sendall(LENGTH.pack(size))


class Outbox:
    """Sends each message to all other ranks. Raises OSError or EOFError if one is gone."""

    def __init__(
        self,
        ring: SharedRing,
        local: Sequence[LocalReader],
        remote: Sequence[socket.socket],
    ) -> None:
        self._ring = ring
        self._local = tuple(local)
        self._remote = tuple(remote)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=encode_path)

    def send(self, message: LeaderMessage, numbers: NDArray[np.int64] = NO_NUMBERS) -> None:
        frame = Frame(self._encoder.encode(message), numbers)
        fits = frame.size <= self._ring.slot_bytes
        if self._local and fits:
            for reader in self._local:
                reader.await_free_slot()
            frame.write(self._ring.next_slot())
            for reader in self._local:
                reader.announce_slot(frame.size)
        if self._remote or not fits:
            payload = bytearray(frame.size)
            frame.write(memoryview(payload))
            for connection in self._remote:
                connection.sendall(LENGTH.pack(frame.size) + payload)
            for reader in self._local if not fits else ():
                reader.send_inline(frame, payload)


class Inbox(Protocol):
    def receive(self) -> Frame:
        """Wait for the next message. Its numbers are valid until the next call. Raises EOFError or
        OSError if rank 0 is gone.
        """
        ...

    def close(self) -> None: ...


class LocalInbox:
    def __init__(self, wake: socket.socket, ring: SharedRing) -> None:
        self._wake = wake
        self._ring = ring
        self._reads_slot = False

    def receive(self) -> Frame:
        if self._reads_slot:
            self._wake.sendall(b"\0")
        size = receive_length(self._wake)
        self._reads_slot = size > 0
        if self._reads_slot:
            return Frame.read(self._ring.next_slot()[:size])
        return Frame.read(memoryview(receive_exactly(self._wake, -size)))

    def close(self) -> None:
        self._wake.close()
        self._ring.close()


class RemoteInbox:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def receive(self) -> Frame:
        size = receive_length(self._connection)
        return Frame.read(memoryview(receive_exactly(self._connection, size)))

    def close(self) -> None:
        self._connection.close()
