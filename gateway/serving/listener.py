"""The listening socket, bound before anything slow starts, so that a port in use fails at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from formgate.gateway.server_config import ServerConfig

BACKLOG = 2048
MAX_UNSENT = 64 * 1024  # bytes that the kernel buffers for one client


class ListenError(Exception):
    """The address cannot be bound. The message is one line for the operator."""


@contextlib.contextmanager
def bound(config: ServerConfig) -> Iterator[socket.socket]:
    """A listening socket. Connections queue until the server accepts them. Raises ListenError."""
    if config.uds is None:
        with _bind_port(config) as listener:
            yield listener
        return
    with _bind_path(config.uds) as listener:
        try:
            yield listener
        finally:
            config.uds.unlink(missing_ok=True)


def _bind_port(config: ServerConfig) -> socket.socket:
    host = config.host or "0.0.0.0"  # as vllm serve does; a container needs it
    if not 0 <= config.port <= 65535:
        raise ListenError(f"{config.port} is not a port (0 to 65535).")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}: {_reason(error)}.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    limit_unsent(listener, config.send_timeout)
    try:
        listener.bind(address)
        # Listen now: two sockets may bind one port as long as neither listens.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = " Choose another with --port."
        raise ListenError(
            f"cannot listen on {host} port {config.port}: {_reason(error)}.{hint}"
        ) from None
    return listener


def limit_unsent(listener: socket.socket, timeout: float) -> None:
    """Limit the unsent bytes that the kernel buffers for a client, and close the connection of a
    client that acknowledges nothing for `timeout` seconds. Accepted sockets inherit both."""
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout * 1000))


def _bind_path(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()  # left over by a server that was killed
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {path}: {_reason(error)}.") from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _reason(error: OSError) -> str:
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error)


def url_of(listener: socket.socket, config: ServerConfig) -> str:
    """The server's URL for a browser on this machine."""
    if config.uds is not None:
        return f"unix:{config.uds}"
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    scheme = "https" if config.ssl_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{config.root_path}"
