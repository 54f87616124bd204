"""Starts the engine process and tells it the socket addresses. It imports neither torch nor the
engine's loop, so that the HTTP process stays light.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from formgate.engine.config import EngineConfig, decode_path, encode_path

logger = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "formgate.gateway.processes.engine_process")
ORPHAN_DELAY = 1.0  # seconds
KILL_TIMEOUT = 10.0  # seconds


class EngineLaunch(msgspec.Struct):
    """The engine process' parameters, one line of JSON on its standard input.

    The HTTP process binds both addresses and the engine process connects to them. Standard input
    stays open afterwards: its end means that the parent is gone.
    """

    config: EngineConfig
    tokenizer_dir: Path
    command_address: str
    event_address: str
    more_clients: list[tuple[str, str]] = []  # (command, event) addresses of further HTTP processes

    def encode(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=encode_path) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> EngineLaunch:
        return msgspec.json.decode(line, type=cls, dec_hook=decode_path)


def leave_signals_to_parent() -> None:
    """Ignore SIGINT and SIGTERM in a child that its parent stops. A service manager signals every
    process of a server, but running answers need them all.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """In a child whose standard input is a pipe: exit soon after the parent does, even if the
    parent was killed, and not before.
    """
    leave_signals_to_parent()

    def wait_for_end() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        # After a Shutdown the loop ends by itself; an orphan never gets one.
        threading.Event().wait(ORPHAN_DELAY)
        os._exit(1)

    threading.Thread(target=wait_for_end, name="end-with-parent", daemon=True).start()


async def start_engine_process(
    command: Sequence[str], launch: EngineLaunch
) -> asyncio.subprocess.Process:
    """Start the engine process in a session of its own: Ctrl-C must reach only the server, which
    stops the engine.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        # If the process died at once, its watcher notices.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(launch.encode())
            await process.stdin.drain()
    except BaseException:
        process.kill()
        raise
    return process


async def stop_engine_process(process: asyncio.subprocess.Process, timeout: float) -> None:
    """Wait `timeout` seconds for the process to exit, then kill it, even if it is stopped."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(timeout):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    try:
        async with asyncio.timeout(KILL_TIMEOUT):
            await process.wait()
    except TimeoutError:  # it is blocked in the kernel by a disk or a device
        logger.error("The engine process %d cannot be killed.", process.pid)
