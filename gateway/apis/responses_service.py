"""Responses, as OpenAI's newer API has them, made of chat completions: the same prompts, grammars
and engine requests, in other words. A complete response is what its stream ends with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from formgate.gateway.apis.chat_translation import ChatStream
from formgate.gateway.apis.responses_events import Event, ResponseEvents
from formgate.gateway.apis.responses_request import chat_request_of
from formgate.gateway.apis.responses_tools import ResponseTools
from formgate.gateway.errors import ApiError
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.responses import ResponsesRequest


class ResponsesService:
    def __init__(
        self, chat: ChatStream, profile: ModelProfile, threads: TextThreads | None = None
    ) -> None:
        self._chat = chat
        self._profile = profile
        self._threads = threads or TextThreads()

    async def stream(self, request: ResponsesRequest) -> AsyncGenerator[list[Event]]:
        """The events of each engine step. What is wrong with the request is an ApiError before
        the first of them; a later error is the response's last event."""
        tools = ResponseTools(request.tools or ())
        events = ResponseEvents(request, request.model or self._profile.name, tools.name)
        opened = False
        try:
            async with aclosing(self._chunks(request, tools)) as steps:
                async for chunks in steps:
                    new = [] if opened else events.opening()
                    opened = True
                    new += [event for chunk in chunks for event in events.of(chunk)]
                    if new:
                        yield new
        except ApiError as error:
            if not opened:
                raise
            yield events.failed(error)
            return
        yield events.closing()

    async def complete(self, request: ResponsesRequest) -> dict[str, Any]:
        """Cancelling it aborts the request."""
        tools = ResponseTools(request.tools or ())
        events = ResponseEvents(request, request.model or self._profile.name, tools.name)
        async with aclosing(self._chunks(request, tools)) as steps:
            async for chunks in steps:
                for chunk in chunks:
                    events.of(chunk)
        response: dict[str, Any] = events.closing()[-1]["response"]
        return response

    async def _chunks(
        self, request: ResponsesRequest, tools: ResponseTools
    ) -> AsyncGenerator[list[dict[str, Any]]]:
        long = request.num_bytes > LONG_BODY
        chat_request, names = await self._threads.run_if(long, chat_request_of, request, tools)
        with names.in_errors():
            async with aclosing(self._chat.stream(chat_request)) as steps:
                async for chunks in steps:
                    yield chunks
