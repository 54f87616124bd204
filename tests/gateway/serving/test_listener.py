"""The listening socket: ports, Unix sockets left over or in use, and the address that is shown."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.listener import ListenError, bound, url_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the path of a Unix socket is at most 108 bytes
    return Path()


@pytest.mark.parametrize("host", [None, "127.0.0.1", "localhost"])
def test_a_free_port_is_bound_and_shown_as_reachable_here(host: str | None) -> None:
    config = ServerConfig(host=host, port=0)
    with bound(config) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        assert url_of(listener, config) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ServerConfig(host="no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
        (ServerConfig(host="127.0.0.1", port=70000), "70000 is not a port"),
        (ServerConfig(uds=Path("nowhere/at/all")), "no such file or directory"),
    ],
)
def test_an_address_that_cannot_be_had(config: ServerConfig, message: str, folder: Path) -> None:
    with pytest.raises(ListenError, match=message), bound(config):
        pass


def test_a_unix_socket_is_taken_over_from_the_dead_but_not_from_the_living(folder: Path) -> None:
    path = folder / "socket"
    config = ServerConfig(uds=path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bound(config) as listener:
        listener.listen()
        assert url_of(listener, config) == "unix:socket"
        with pytest.raises(ListenError, match="already in use"), bound(config):
            pass
    assert not path.exists()


def test_a_file_is_never_removed(folder: Path) -> None:
    path = folder / "file"
    path.write_text("precious")
    with pytest.raises(ListenError), bound(ServerConfig(uds=path)):
        pass
    assert path.read_text() == "precious"
