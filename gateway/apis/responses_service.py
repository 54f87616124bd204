"""Responses, OpenAI's newer API: the request is answered as a chat request, and its steps are read
as the events of a response. A complete response is the last event of its stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.apis.chat_translation import Places
from formgate.gateway.apis.responses_events import Event, ResponseEvents
from formgate.gateway.apis.responses_request import chat_request_of
from formgate.gateway.errors import ApiError
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.responses import ResponsesRequest


class ResponsesService:
    def __init__(
        self, chat: ChatService, profile: ModelProfile, threads: TextThreads | None = None
    ) -> None:
        self._chat = chat
        self._profile = profile
        self._threads = threads or TextThreads()

    async def stream(self, request: ResponsesRequest) -> AsyncGenerator[list[Event]]:
        """The events of each engine step. An invalid request raises ApiError before the first of
        them; a later error is the response's last event."""
        answer, events, places = await self._answer(request)
        opened = False
        try:
            with places.in_errors():
                async with aclosing(answer.steps()) as steps:
                    async for step in steps:
                        new = [] if opened else events.opening()
                        opened = True
                        new += events.of(step)
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
        answer, events, places = await self._answer(request)
        with places.in_errors():
            async with aclosing(answer.steps()) as steps:
                async for step in steps:
                    events.of(step)
        response: dict[str, Any] = events.closing()[-1]["response"]
        return response

    async def _answer(self, request: ResponsesRequest) -> tuple[Answer, ResponseEvents, Places]:
        long = request.num_bytes > LONG_BODY
        chat_request, tools, places = await self._threads.run_if(long, chat_request_of, request)
        with places.in_errors():
            answer = await self._chat.answer(chat_request)
        events = ResponseEvents(request, answer, self._profile.tokenizer, tools.name)
        return answer, events, places
