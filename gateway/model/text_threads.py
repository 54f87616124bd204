"""Threads that render and encode long texts, which would block the event loop. They are few, to
bound the cores and the memory that long texts use at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
# A body of fewer bytes is rendered and encoded in a few milliseconds.
LONG_BODY = 16 * 1024


class TextThreads:
    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="text")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread. If the caller is cancelled before it begins, it never runs."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: work(*args, **kwargs))

    async def run_if(
        self, long: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` in a thread if `long`, else here: a thread costs more than a short text."""
        return await self.run(work, *args, **kwargs) if long else work(*args, **kwargs)
