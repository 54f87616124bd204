"""The adapters that an engine serves, as an HTTP process knows them, and the commands that change
them. Every process hears of every change.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from formgate.engine.adapter import AdapterSource
from formgate.engine.messages import (
    AdapterInfo,
    AdaptersChanged,
    EngineCommand,
    LoadAdapter,
    UnloadAdapter,
)
from formgate.gateway.errors import engine_died


class AdapterDesk:
    def __init__(self, send: Callable[[EngineCommand], None]) -> None:
        """`send` raises ApiError if no engine takes the command."""
        self.known: dict[str, AdapterInfo] = {}  # by name; always this dict
        self._send = send
        self._waiting: dict[str, asyncio.Future[str | None]] = {}  # by command id

    async def load(
        self, name: str, path: str, *, base_model_name: str | None = None, replace: bool = False
    ) -> str | None:
        """Load a folder under a name. Returns the reason, in one line, if it is refused. Raises
        ApiError 503 if the engine is not ready or dies.
        """
        command_id = secrets.token_hex(8)
        command = LoadAdapter(command_id, name, path, base_model_name, replace)
        return await self._end_of(command_id, command)

    async def unload(self, name: str) -> str | None:
        """Forget a name; as `load`. Requests of the adapter that run go on."""
        command_id = secrets.token_hex(8)
        return await self._end_of(command_id, UnloadAdapter(command_id, name))

    def changed(self, change: AdaptersChanged) -> None:
        self._set(change.adapters)
        waiting = self._waiting.pop(change.command_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(change.error)

    def engine_ready(self, adapters: Sequence[AdapterInfo]) -> None:
        """An engine has started with these."""
        self._set(adapters)

    def sources(self) -> tuple[AdapterSource, ...]:
        """What the next engine has to load to serve the same names. They are part of its start: a
        name is never unknown for a while, nor lost with an engine that dies while it reads them.
        """
        return tuple(
            AdapterSource(name, Path(info.path), info.base_model_name)
            for name, info in self.known.items()
        )

    def engine_ended(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(engine_died())
        self._waiting.clear()

    async def _end_of(self, command_id: str, command: EngineCommand) -> str | None:
        waiting: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._send(command)
        self._waiting[command_id] = waiting
        try:
            return await waiting
        finally:
            self._waiting.pop(command_id, None)

    def _set(self, adapters: Sequence[AdapterInfo]) -> None:
        self.known.clear()
        self.known.update((info.name, info) for info in adapters)
