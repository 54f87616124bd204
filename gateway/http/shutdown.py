"""Graceful shutdown. After the first SIGTERM or SIGINT, running answers finish and new requests are
refused; the second aborts them. After SIGTERM, new requests may be taken for a while, until every
load balancer has noticed. It owns no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

import uvicorn

from formgate.gateway.errors import server_stopping
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.server_config import ServerConfig

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FLUSH_SECONDS = 1.0  # to send the error events of aborted answers


class ShutdownRequest:
    """The state of a shutdown: not asked for, asked for (requests may still be taken), draining
    (none are), or forced."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.draining = asyncio.Event()
        self.forced = asyncio.Event()
        self.later = False  # take requests for `shutdown_delay` before draining
        self.signal_number: int | None = None  # the last one

    def ask(self, number: int | None = None, *, later: bool = False) -> None:
        """Ask for a shutdown; a second call forces it. SIGTERM implies `later`."""
        self.signal_number = number
        if self.asked.is_set():
            self.forced.set()
        self.later = later or number == signal.SIGTERM
        self.asked.set()

    def ensure_running(self) -> None:
        """Raises ApiError 503 once no requests are taken."""
        if self.draining.is_set():
            raise server_stopping()

    def ensure_unasked(self) -> None:
        """Raises ApiError 503 once a shutdown was asked for."""
        if self.asked.is_set():
            raise server_stopping()

    async def wait_draining(self, delay: float) -> None:
        """Wait for `delay` seconds if the shutdown may be `later`, or until it is forced; then set
        `draining`."""
        if self.later and delay > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.forced.wait(), delay)
        self.draining.set()

    def exit_code(self, *, was_ready: bool) -> int:
        """0 if the server was ready and stopped gracefully; otherwise 128 + the signal's number."""
        in_order = was_ready and not self.forced.is_set()
        return 0 if in_order or self.signal_number is None else 128 + self.signal_number


def catch_signals(shutdown: ShutdownRequest, also: Callable[[], None]) -> None:
    """Install handlers in the running loop. `also` is called after each signal."""

    def caught(number: int) -> None:
        shutdown.ask(number)
        also()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, caught, number)


async def drain(
    shutdown: ShutdownRequest, server: uvicorn.Server, engine: EngineClient, config: ServerConfig
) -> None:
    """Wait until `shutdown` is asked for and its delay is over, then up to `shutdown_timeout`
    seconds for running answers; abort the rest and let the server close its listener. Until then
    it accepts connections, so that `/ready` and new requests get 503.
    """
    await shutdown.asked.wait()
    # A server that was never ready has nobody's requests to take.
    await shutdown.wait_draining(config.shutdown_delay if engine.ready is not None else 0.0)
    under_way = list(server.server_state.tasks)
    if under_way:
        answered = asyncio.ensure_future(asyncio.wait(under_way))
        forced = asyncio.ensure_future(shutdown.forced.wait())
        try:
            await asyncio.wait(
                (answered, forced),
                timeout=config.shutdown_timeout,
                return_when=asyncio.FIRST_COMPLETED,
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
