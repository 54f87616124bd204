"""What a generating endpoint asks of the service behind it. The service knows prompts, formats
and the engine; it does not know HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

from formgate.gateway.http.sse import Chunk, Payload

B = TypeVar("B", contravariant=True)


class AnswerService(Protocol[B]):
    def stream(self, request: B) -> AsyncGenerator[Chunk]:
        """Chunks as they come; what one step brought may be one list. Bad input is an ApiError
        before the first chunk. Closing the generator aborts the request in the engine.
        """
        ...

    async def complete(self, request: B) -> Payload:
        """The whole answer. Cancelling it aborts the request in the engine."""
        ...
