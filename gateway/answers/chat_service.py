"""Chat completions, from the request to the response or its stream: prompt, constraint, engine
requests, deltas. It composes the modules that know each of these and knows nothing of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from formgate.engine.messages import AddRequest, EngineReady
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.answers.caller import current_caller
from formgate.gateway.answers.chat_stream import ChatChunks, ChatView, ResponseHead, chat_choice
from formgate.gateway.answers.choice import Choice, ChoiceStep, Engine
from formgate.gateway.answers.engine_requests import engine_requests, plan_ahead, response_id
from formgate.gateway.answers.fan_in import fan_in
from formgate.gateway.answers.logprobs import prompt_logprobs
from formgate.gateway.answers.usage import Usage
from formgate.gateway.errors import engine_not_ready
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, encode_conversation, fit_prompt
from formgate.gateway.model.sampling import sampling_params
from formgate.gateway.model.text_bound import bound_of_prompt
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.rules import check_chat

MANY_WORDS = 50  # of `bad_words`: each is encoded twice, in 10 us


@dataclass(frozen=True)
class _Answer:
    """A request that has passed every check."""

    head: ResponseHead
    view: ChatView
    plan: AnswerPlan
    prompt_token_ids: list[int]
    choices: list[Choice]
    requests: list[AddRequest]
    usage: Usage
    echo: str


class ChatService:
    def __init__(
        self,
        profile: ModelProfile,
        engine: Engine,
        planner: AnswerPlanner,
        threads: TextThreads | None = None,
    ) -> None:
        self._profile = profile
        self._engine = engine
        self._planner = planner
        self._threads = threads or TextThreads()

    async def stream(self, request: ChatCompletionRequest) -> AsyncGenerator[list[dict[str, Any]]]:
        """The chunks of each engine step. What is wrong with the request is an ApiError before
        the first of them; closing the generator aborts the request."""
        answer = await self._prepare(request)
        chunks = ChatChunks(answer.head, answer.view, self._profile.tokenizer, answer.usage)
        opened = False
        async with aclosing(self._steps(answer)) as steps:
            async for step in steps:
                new: list[dict[str, Any]] = []
                if not opened:
                    opened = True
                    new = chunks.opening(
                        len(answer.choices),
                        answer.echo,
                        answer.prompt_token_ids if answer.view.token_ids else None,
                    )
                new += chunks.of(step)
                if new:
                    yield new
        if closing := chunks.closing():
            yield closing

    async def complete(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """The deltas of the stream, folded. Cancelling it aborts the request."""
        answer = await self._prepare(request)
        token_ids: list[list[int]] = [[] for _ in answer.choices]
        logprobs: list[list[Any]] = [[] for _ in answer.choices]
        trace: list[list[Any]] = [[] for _ in answer.choices]
        last: dict[int, ChoiceStep] = {}
        shown_prompt_logprobs: Any = None
        async with aclosing(self._steps(answer)) as steps:
            async for step in steps:
                token_ids[step.index] += step.token_ids
                logprobs[step.index] += step.logprobs
                trace[step.index] += step.trace
                last[step.index] = step
                if step.index == 0 and step.first and step.first.prompt_logprobs is not None:
                    shown_prompt_logprobs = prompt_logprobs(
                        step.first.prompt_logprobs, self._profile.tokenizer
                    )
        return {
            **answer.head.fields("chat.completion"),
            "choices": [
                chat_choice(
                    choice.index,
                    choice.fold,
                    last[choice.index],
                    view=answer.view,
                    tokenizer=self._profile.tokenizer,
                    echo=answer.echo,
                    token_ids=token_ids[choice.index],
                    logprobs=logprobs[choice.index],
                    trace=trace[choice.index],
                )
                for choice in answer.choices
            ],
            "usage": answer.usage.as_dict(),
            "prompt_logprobs": shown_prompt_logprobs,
            "prompt_token_ids": answer.prompt_token_ids if answer.view.token_ids else None,
        }

    async def _steps(self, answer: _Answer) -> AsyncGenerator[ChoiceStep]:
        """The steps of all choices. A choice that ends is validated before its end is shown."""
        sources = [
            choice.steps(self._engine, engine_request)
            for choice, engine_request in zip(answer.choices, answer.requests, strict=True)
        ]
        try:
            async with aclosing(fan_in(sources)) as steps:
                async for step in steps:
                    if step.first is not None:
                        answer.usage.found_cached(0, step.first.num_cached_tokens)
                    if step.finish_reason is not None:
                        self._planner.validate(answer.plan, answer.choices[step.index])
                    yield step
        finally:
            self._engine.abandon(answer.requests)
            self._planner.ended(answer.choices)

    async def _prepare(self, request: ChatCompletionRequest) -> _Answer:
        profile = self._profile
        long = (
            request.num_bytes > LONG_BODY
            or bool(request.tools)
            or len(request.bad_words or ()) > MANY_WORDS
        )
        token_ids, params = await self._threads.run_if(
            long, self._read, request, self._engine.ready
        )
        max_tokens = params.max_tokens
        count = request.n or 1
        self._engine.ensure_admission(count)
        shown_id = response_id("chatcmpl", request)
        plan, requests = await plan_ahead(
            self._engine,
            engine_requests(request, shown_id, [token_ids], [params], count=count),
            lambda meanwhile: self._planner.plan_chat(
                request, token_ids, max_tokens=max_tokens, meanwhile=meanwhile
            ),
        )
        choices = [Choice(i, plan.settings) for i in range(count)]
        usage = Usage(len(token_ids), choices, show_cached=profile.show_cached_tokens)
        current_caller().usage = usage
        return _Answer(
            head=ResponseHead(
                id=shown_id,
                created=int(time.time()),
                model=request.model or profile.name,
                system_fingerprint=profile.fingerprint,
            ),
            view=ChatView(
                num_logprobs=params.logprobs,
                include_reasoning=request.include_reasoning,
                include_usage=request.include_usage,
                usage_in_every_chunk=request.usage_in_every_chunk,
                token_ids=bool(request.return_token_ids),
                trace=request.traced,
                custom_tools=frozenset(
                    tool.name for tool in plan.promise.tools.tools if tool.is_custom
                ),
            ),
            plan=plan,
            prompt_token_ids=token_ids,
            choices=choices,
            requests=requests,
            usage=usage,
            echo=_echo(request),
        )

    def _read(
        self, request: ChatCompletionRequest, ready: EngineReady | None
    ) -> tuple[list[int], SamplingParams]:
        """The prompt's ids, and how to go on from them."""
        profile = self._profile
        check_chat(request, max_logprobs=profile.max_logprobs)
        if ready is None:
            raise engine_not_ready()
        token_ids = encode_conversation(
            conversation_of(request, profile.chat_template_kwargs),
            profile.tokenizer,
            profile.chat_template,
            bound_of_prompt(
                ready.max_model_len, profile.tokenizer, truncate=request.truncate_prompt_tokens
            ),
        )
        token_ids, max_tokens = fit_prompt(
            token_ids,
            max_tokens=request.token_limit,
            truncate=request.truncate_prompt_tokens,
            max_model_len=ready.max_model_len,
            vocab_size=ready.vocab_size,
            param="messages",
        )
        params = sampling_params(
            request,
            profile.sampling_defaults,
            profile.tokenizer,
            max_tokens=max_tokens,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            prompt_logprobs=request.prompt_logprobs,
        )
        return token_ids, params


def _echo(request: ChatCompletionRequest) -> str:
    """With `echo`, an assistant's last message comes before what is added to it."""
    last = request.messages[-1]
    if not request.echo or last.role != "assistant" or last.content is None:
        return ""
    if isinstance(last.content, str):
        return last.content
    return "\n".join(part.text or "" for part in last.content)
