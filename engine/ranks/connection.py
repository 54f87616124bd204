"""Reads and writes length-prefixed messages on stream sockets, and waits for their end."""

from __future__ import annotations

import contextlib
import select
import socket

import msgspec

from formgate.engine.ranks.frame import LENGTH

KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
MAX_MESSAGE = 1 << 20  # bytes that a rank may send to rank 0


def receive_exactly(connection: socket.socket, size: int) -> bytearray:
    """Raises EOFError if the peer is gone."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        received = connection.recv_into(rest)
        if not received:
            raise EOFError("the connection is closed")
        rest = rest[received:]
    return data


def receive_length(connection: socket.socket) -> int:
    length: int = LENGTH.unpack(receive_exactly(connection, LENGTH.size))[0]
    return length


def send_message(connection: socket.socket, message: msgspec.Struct) -> None:
    data = msgspec.msgpack.encode(message)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive_message(connection: socket.socket) -> bytes:
    """Raises EOFError if the peer is gone, ValueError if it sends something else."""
    length = receive_length(connection)
    if not 0 <= length <= MAX_MESSAGE:
        raise ValueError(f"a message of {length} bytes")
    return bytes(receive_exactly(connection, length))


def tune(connection: socket.socket) -> None:
    """For a TCP connection: send small messages at once, and notice a peer that vanished."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def wait_closed(connection: socket.socket) -> None:
    """Wait until the peer closes the connection. Reads nothing from it."""
    poll = select.poll()
    poll.register(connection, getattr(select, "POLLRDHUP", 0))  # POLLHUP is always reported
    poll.poll()


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def close_all(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.close()
