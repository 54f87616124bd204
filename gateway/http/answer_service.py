"""The interface between a generating endpoint and its service. The service knows prompts, formats
and the engine, but not HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

from formgate.gateway.http.sse import Chunk, Payload

B = TypeVar("B", contravariant=True)


class AnswerService(Protocol[B]):
    def stream(self, request: B) -> AsyncGenerator[Chunk]:
        """Yields the answer's chunks; those of one engine step may come as one list. Bad input
        raises ApiError before the first chunk. Closing the generator aborts the request.
        """
        ...

    async def complete(self, request: B) -> Payload:
        """The complete answer. Cancellation aborts the request in the engine."""
        ...
