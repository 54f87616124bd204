"""Merges async generators into one that yields items as they are produced. All generators are
closed when they are exhausted, when one fails, and when the consumer stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


def fan_in(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    # One source, the common case, needs no task and no queue.
    return sources[0] if len(sources) == 1 else _fan_in(sources)


async def _fan_in(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    queue: asyncio.Queue[T | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    queue.put_nowait(item)
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    open_sources = len(tasks)
    try:
        while open_sources:
            event = await queue.get()
            if event is None:
                open_sources -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
