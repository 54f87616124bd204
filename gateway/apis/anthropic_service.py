"""Anthropic's Messages, made of chat completions: the same prompts, grammars and engine requests,
in other words. A complete message is its events folded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from formgate.gateway.apis.anthropic_events import Event, MessageEvents
from formgate.gateway.apis.anthropic_request import chat_request_of
from formgate.gateway.apis.chat_translation import ChatStream
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, encode_conversation
from formgate.gateway.model.text_bound import bound_of_count
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.rules import check_chat


class MessagesService:
    def __init__(
        self, chat: ChatStream, profile: ModelProfile, threads: TextThreads | None = None
    ) -> None:
        self._chat = chat
        self._profile = profile
        self._threads = threads or TextThreads()

    async def stream(self, request: MessagesRequest) -> AsyncGenerator[list[Event]]:
        """The events of each engine step. What is wrong with the request is an ApiError before
        the first of them; closing the generator aborts the request."""
        events = MessageEvents(request.model or self._profile.name)
        opened = False
        async with aclosing(self._chunks(request)) as steps:
            async for chunks in steps:
                new = [] if opened else events.opening(chunks[0])
                opened = True
                new += [event for chunk in chunks for event in events.of(chunk)]
                if new:
                    yield new
        yield events.closing()

    async def complete(self, request: MessagesRequest) -> dict[str, Any]:
        """Cancelling it aborts the request."""
        events = MessageEvents(request.model or self._profile.name)
        async with aclosing(self._chunks(request)) as steps:
            async for chunks in steps:
                for chunk in chunks:
                    events.of(chunk)
        events.closing()
        return events.message()

    async def count_tokens(
        self, request: CountTokensRequest, *, max_model_len: int | None = None
    ) -> int:
        """The tokens of the prompt that the same request to `stream` would have."""
        return await self._threads.run(self._count_tokens, request, max_model_len)

    def _count_tokens(self, request: CountTokensRequest, max_model_len: int | None) -> int:
        profile = self._profile
        chat_request, names = chat_request_of(request)
        with names.in_errors():
            check_chat(chat_request, max_logprobs=profile.max_logprobs)
            conversation = conversation_of(chat_request, profile.chat_template_kwargs)
            bound = bound_of_count(max_model_len)
            return len(
                encode_conversation(conversation, profile.tokenizer, profile.chat_template, bound)
            )

    async def _chunks(self, request: MessagesRequest) -> AsyncGenerator[list[dict[str, Any]]]:
        long = request.num_bytes > LONG_BODY
        chat_request, names = await self._threads.run_if(long, chat_request_of, request)
        with names.in_errors():
            async with aclosing(self._chat.stream(chat_request)) as steps:
                async for chunks in steps:
                    yield chunks
