"""Chat requests, answered: prompt, constraint, engine requests, steps. Chat completions are one
reader of the steps; the other APIs bring their own. Nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from formgate.engine.messages import EngineReady
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.answer import Answer, AnswerAdmission
from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.chat_stream import ChatChunks, chat_completion
from formgate.gateway.answers.choice import Engine
from formgate.gateway.errors import engine_not_ready
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, encode_conversation, fit_prompt
from formgate.gateway.model.sampling import sampling_params
from formgate.gateway.model.text_bound import bound_of_prompt
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.rules import check_chat

MANY_WORDS = 50  # of `bad_words`: each is encoded twice, which takes 10 us


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
        self._admission = AnswerAdmission(profile, engine, planner)

    async def stream(self, request: ChatCompletionRequest) -> AsyncGenerator[list[dict[str, Any]]]:
        """The chunks of each engine step. An invalid request raises ApiError before the first of
        them; closing the generator aborts the request."""
        answer = await self.answer(request)
        chunks = ChatChunks(answer, request, self._profile.tokenizer)
        opened = False
        async with aclosing(answer.steps()) as steps:
            async for step in steps:
                new = [] if opened else chunks.opening()
                opened = True
                new += chunks.of(step)
                if new:
                    yield new
        if closing := chunks.closing():
            yield closing

    async def complete(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """The fold of the stream. Cancelling it aborts the request."""
        tokens = bool(request.logprobs or request.return_token_ids or request.traced)
        answer = await self.answer(request, keeps_tokens=tokens)
        await answer.complete()
        return chat_completion(answer, request, self._profile.tokenizer)

    async def answer(self, request: ChatCompletionRequest, *, keeps_tokens: bool = False) -> Answer:
        """The admitted request, for any reader of its steps. `keeps_tokens`: the folds of its
        choices keep their tokens. Raises ApiError for an invalid request."""
        long = (
            request.num_bytes > LONG_BODY
            or bool(request.tools)
            or len(request.bad_words or ()) > MANY_WORDS
        )
        token_ids, params = await self._threads.run_if(
            long, self._read, request, self._engine.ready
        )
        return await self._admission.admit(
            request,
            [token_ids],
            [params],
            lambda meanwhile: self._planner.plan_chat(
                request, token_ids, max_tokens=params.max_tokens, meanwhile=meanwhile
            ),
            id_prefix="chatcmpl",
            count=request.n or 1,
            keeps_tokens=keeps_tokens,
        )

    def _read(
        self, request: ChatCompletionRequest, ready: EngineReady | None
    ) -> tuple[list[int], SamplingParams]:
        """The prompt's token ids, and how to sample after them."""
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
