"""Anthropic's Messages: the request is answered as a chat request, and its steps are read as the
events of a message. A complete message is the fold of its events.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.apis.anthropic_events import Event, MessageEvents
from formgate.gateway.apis.anthropic_request import chat_request_of, hides_thinking
from formgate.gateway.apis.chat_translation import Places
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, encode_conversation
from formgate.gateway.model.text_bound import bound_of_count
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.rules import check_chat


class MessagesService:
    def __init__(
        self, chat: ChatService, profile: ModelProfile, threads: TextThreads | None = None
    ) -> None:
        self._chat = chat
        self._profile = profile
        self._threads = threads or TextThreads()

    async def stream(self, request: MessagesRequest) -> AsyncGenerator[list[Event]]:
        """The events of each engine step. An invalid request raises ApiError before the first of
        them; closing the generator aborts the request."""
        answer, events, places = await self._answer(request)
        opened = False
        with places.in_errors():
            async with aclosing(answer.steps()) as steps:
                async for step in steps:
                    new = [] if opened else events.opening()
                    opened = True
                    new += events.of(step)
                    if new:
                        yield new
        yield events.closing()

    async def complete(self, request: MessagesRequest) -> dict[str, Any]:
        """Cancelling it aborts the request."""
        answer, events, places = await self._answer(request)
        with places.in_errors():
            async with aclosing(answer.steps()) as steps:
                async for step in steps:
                    events.of(step)
        events.closing()
        return events.message()

    async def count_tokens(
        self, request: CountTokensRequest, *, max_model_len: int | None = None
    ) -> int:
        """The number of tokens in the prompt of the same request to `stream`."""
        return await self._threads.run(self._count_tokens, request, max_model_len)

    def _count_tokens(self, request: CountTokensRequest, max_model_len: int | None) -> int:
        profile = self._profile
        chat_request, places = chat_request_of(request)
        with places.in_errors():
            check_chat(chat_request, max_logprobs=profile.max_logprobs)
            conversation = conversation_of(chat_request, profile.chat_template_kwargs)
            bound = bound_of_count(max_model_len)
            return len(
                encode_conversation(conversation, profile.tokenizer, profile.chat_template, bound)
            )

    async def _answer(self, request: MessagesRequest) -> tuple[Answer, MessageEvents, Places]:
        long = request.num_bytes > LONG_BODY
        chat_request, places = await self._threads.run_if(long, chat_request_of, request)
        with places.in_errors():
            answer = await self._chat.answer(chat_request)
        shows_thinking = not hides_thinking(request.thinking)
        return answer, MessageEvents(answer, shows_thinking=shows_thinking), places
