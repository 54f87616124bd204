"""The queue of one request's outputs, between the socket's reader and the request's consumer."""

from __future__ import annotations

import asyncio
from collections import deque

from formgate.engine.messages import TokenOutput
from formgate.gateway.errors import ApiError


class OutputQueue:
    """An asyncio.Queue without locks and limits, since every token of every request passes through
    it. One consumer.
    """

    __slots__ = ("_items", "_loop", "_waiter")

    def __init__(self) -> None:
        self._items: deque[TokenOutput | ApiError] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: TokenOutput | ApiError) -> None:
        self._items.append(item)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():  # done: the consumer was cancelled and has not run yet
                waiter.set_result(None)

    async def next(self) -> TokenOutput | ApiError:
        items = self._items
        while not items:
            self._waiter = waiter = self._loop.create_future()
            await waiter
        return items.popleft()
