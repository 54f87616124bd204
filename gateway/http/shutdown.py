"""How a server stops. The first SIGTERM or SIGINT lets answers under way finish while new ones are
refused, the second ends them. It owns what the signals mean, and no process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvicorn

from formgate.gateway.errors import server_stopping
from formgate.gateway.processes.engine_client import EngineClient

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FLUSH_SECONDS = 1.0  # that the error events of ended answers have to leave; after a second signal


class ShutdownRequest:
    """Whether the server has been told to stop, and how urgently."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()
        self.signal_number: int | None = None  # the last one

    def ask(self, number: int | None = None) -> None:
        """Stop; when asked again, at once."""
        self.signal_number = number
        if self.asked.is_set():
            self.forced.set()
        self.asked.set()

    def ensure_running(self) -> None:
        """Raises ApiError 503 once the server has been told to stop."""
        if self.asked.is_set():
            raise server_stopping()

    def exit_code(self, *, was_ready: bool) -> int:
        """0 for a server that was ready and ended in good order; otherwise, as a shell tells of a
        signal."""
        in_order = was_ready and not self.forced.is_set()
        return 0 if in_order or self.signal_number is None else 128 + self.signal_number


def catch_signals(shutdown: ShutdownRequest, also: Callable[[], None]) -> None:
    """In the running loop. `also` is called after each signal."""

    def caught(number: int) -> None:
        shutdown.ask(number)
        also()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, caught, number)


async def drain(
    shutdown: ShutdownRequest, server: uvicorn.Server, engine: EngineClient, timeout: float
) -> None:
    """Once `shutdown` is asked for: wait for the answers under way, for `timeout` seconds at most,
    end those that are left, and let the server close its listener. Until then it accepts
    connections: whoever asks for `/ready` is told, and new requests are refused.
    """
    await shutdown.asked.wait()
    under_way = list(server.server_state.tasks)
    if under_way:
        answered = asyncio.ensure_future(asyncio.wait(under_way))
        forced = asyncio.ensure_future(shutdown.forced.wait())
        try:
            await asyncio.wait(
                (answered, forced), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            answered.cancel()
            forced.cancel()
    engine.end_requests()
    server.should_exit = True
    await shutdown.forced.wait()
    engine.end_requests()
    await asyncio.sleep(FLUSH_SECONDS)
    server.force_exit = True
