"""Plain completions: one or several prompts (text or token ids), continued. No chat template, no
tools and no reasoning; constraints hold here, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from formgate.engine.messages import EngineReady
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.answer import Answer, AnswerAdmission
from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.choice import Engine
from formgate.gateway.answers.completion_stream import Completion, choice_counts, shows_tokens
from formgate.gateway.errors import bad_request, engine_not_ready
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import fit_prompt
from formgate.gateway.model.sampling import sampling_params, with_max_tokens
from formgate.gateway.model.text_bound import bound_of_prompt
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.rules import check_completion

DEFAULT_MAX_TOKENS = 16  # OpenAI's
FEW_PROMPTS = 20  # and `bad_words`: more are encoded off the event loop


class CompletionService:
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

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[list[dict[str, Any]]]:
        """The chunks of each engine step. An invalid request raises ApiError before the first of
        them; closing the generator aborts the request."""
        answer, completion = await self._answer(request)
        async with aclosing(answer.steps()) as steps:
            async for step in steps:
                if chunks := completion.of(step):
                    yield chunks
        if closing := completion.closing():
            yield closing

    async def complete(self, request: CompletionRequest) -> dict[str, Any]:
        """The fold of the stream. Cancelling it aborts the request."""
        count, wanted = choice_counts(request)
        ranks = count > wanted  # by the probabilities of the tokens
        tokens = ranks or shows_tokens(request)
        answer, completion = await self._answer(request, keeps_tokens=tokens)
        await answer.complete()
        return completion.whole()

    async def _answer(
        self, request: CompletionRequest, *, keeps_tokens: bool = False
    ) -> tuple[Answer, Completion]:
        words = len(request.bad_words or ())
        long = request.num_bytes > LONG_BODY or len(request.prompts) + words > FEW_PROMPTS
        prompts, params = await self._threads.run_if(long, self._read, request, self._engine.ready)
        count, _ = choice_counts(request)
        answer = await self._admission.admit(
            request,
            prompts,
            params,
            lambda meanwhile: self._planner.plan_completion(
                request,
                drop_tokens=request.max_tokens == 0,
                max_tokens=min((one.max_tokens for one in params), default=None),
                meanwhile=meanwhile,
            ),
            id_prefix="cmpl",
            count=count,
            keeps_tokens=keeps_tokens,
        )
        echoes = [self._echo(request, number, prompt) for number, prompt in enumerate(prompts)]
        return answer, Completion(answer, request, echoes, self._profile.tokenizer)

    def _read(
        self, request: CompletionRequest, ready: EngineReady | None
    ) -> tuple[list[list[int]], list[SamplingParams]]:
        """The token ids of each prompt, and how to sample after them."""
        profile = self._profile
        check_completion(request, max_logprobs=profile.max_logprobs)
        if ready is None:
            raise engine_not_ready()
        wanted = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        prompts: list[list[int]] = []
        params: list[SamplingParams] = []
        for number, prompt in enumerate(request.prompts):
            token_ids = self._encode(request, number, prompt, ready.max_model_len)
            limit = wanted or 1
            if request.max_tokens is None:
                limit = max(1, min(limit, ready.max_model_len - len(token_ids)))
            fitted, max_tokens = fit_prompt(
                token_ids,
                max_tokens=limit,
                truncate=request.truncate_prompt_tokens,
                max_model_len=ready.max_model_len,
                vocab_size=ready.vocab_size,
                param="prompt",
            )
            prompts.append(fitted)
            if params:
                params.append(with_max_tokens(params[0], max_tokens))
                continue
            params.append(
                sampling_params(
                    request,
                    profile.sampling_defaults,
                    profile.tokenizer,
                    max_tokens=max_tokens,
                    logprobs=_engine_logprobs(request),
                    prompt_logprobs=_prompt_logprobs(request),
                )
            )
        return prompts, params

    def _encode(
        self, request: CompletionRequest, number: int, prompt: str | list[int], max_model_len: int
    ) -> list[int]:
        tokenizer = self._profile.tokenizer
        if isinstance(prompt, str):
            bound = bound_of_prompt(
                max_model_len, tokenizer, truncate=request.truncate_prompt_tokens
            )
            bound.check([prompt], tokenizer, "prompt")
            return tokenizer.encode(prompt, add_special_tokens=request.add_special_tokens)
        if prompt and (largest := max(prompt)) >= tokenizer.size:
            raise bad_request(f"No token has id {largest}.", f"prompt[{number}]")
        return prompt

    def _echo(self, request: CompletionRequest, number: int, token_ids: list[int]) -> str:
        if not request.echo:
            return ""
        prompt = request.prompts[number]
        if isinstance(prompt, str) and request.truncate_prompt_tokens is None:
            return prompt
        return self._profile.tokenizer.decode(
            token_ids, skip_special_tokens=request.skip_special_tokens
        )


def _engine_logprobs(request: CompletionRequest) -> int | None:
    count, wanted = choice_counts(request)
    if request.logprobs is None and count > wanted:
        return 0  # best_of ranks by them
    return request.logprobs


def _prompt_logprobs(request: CompletionRequest) -> int | None:
    """Echoed tokens have probabilities as the new ones do."""
    if not request.echo or request.logprobs is None:
        return request.prompt_logprobs
    return max(request.logprobs, request.prompt_logprobs or 0)
