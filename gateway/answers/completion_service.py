"""Plain completions: one or several prompts of text or ids, continued. No chat template, no tools
and no reasoning; constraints hold here too.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from formgate.engine.messages import AddRequest, EngineReady, PositionLogprobs
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.answers.caller import current_caller
from formgate.gateway.answers.chat_stream import ResponseHead
from formgate.gateway.answers.choice import Choice, ChoiceStep, Engine
from formgate.gateway.answers.engine_requests import engine_requests, plan_ahead, response_id
from formgate.gateway.answers.fan_in import fan_in
from formgate.gateway.answers.logprobs import completion_logprobs, prompt_logprobs
from formgate.gateway.answers.usage import Usage
from formgate.gateway.errors import bad_request, engine_not_ready
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import fit_prompt
from formgate.gateway.model.sampling import sampling_params, with_max_tokens
from formgate.gateway.model.text_bound import bound_of_prompt
from formgate.gateway.model.text_threads import LONG_BODY, TextThreads
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.rules import check_completion
from formgate.parsers.text.events import ContentDelta

DEFAULT_MAX_TOKENS = 16  # OpenAI's
FEW_PROMPTS = 20  # and words: more are encoded off the event loop


@dataclass(slots=True)
class _Shown:
    """What one choice has shown so far."""

    choice: Choice
    prompt_token_ids: list[int]
    echo: str
    num_logprobs: int | None
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    trace: list[Any] = field(default_factory=list)
    prompt_positions: Sequence[PositionLogprobs | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    closed: bool = False
    offset: int = 0  # characters of text before the next token
    opened: bool = False
    score: float = 0.0  # sum of the log probabilities, for best_of

    @property
    def mean_score(self) -> float:
        return self.score / max(1, self.choice.num_tokens)


@dataclass(frozen=True)
class _Answer:
    head: ResponseHead
    request: CompletionRequest
    plan: AnswerPlan
    shown: list[_Shown]
    requests: list[AddRequest]
    usage: Usage

    @property
    def count(self) -> int:
        """Choices of each prompt, side by side in `shown`."""
        return _counts(self.request)[0]


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

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[list[dict[str, Any]]]:
        """The chunks of each engine step. What is wrong with the request is an ApiError before
        the first of them; closing the generator aborts the request."""
        answer = await self._prepare(request)
        fields = answer.head.fields("text_completion")
        async with aclosing(self._steps(answer)) as steps:
            async for step in steps:
                shown = answer.shown[step.index]
                ends = step.finish_reason is not None
                text = "".join(d.text for d in step.deltas if isinstance(d, ContentDelta))
                opens = not shown.opened and bool(shown.echo)
                if not (text or ends or opens):
                    continue
                choice = self._choice(answer, shown)
                shown.text, shown.token_ids, shown.logprobs, shown.trace = [], [], [], []
                chunk = {**fields, "choices": [choice]}
                if request.include_usage:
                    every = request.usage_in_every_chunk
                    chunk["usage"] = answer.usage.as_dict() if every else None
                yield [chunk]
        if request.include_usage:
            yield [{**fields, "choices": [], "usage": answer.usage.as_dict()}]

    async def complete(self, request: CompletionRequest) -> dict[str, Any]:
        """The deltas of the stream, folded. Cancelling it aborts the request."""
        answer = await self._prepare(request)
        async with aclosing(self._steps(answer)) as steps:
            async for _ in steps:
                pass
        choices = [self._choice(answer, shown) for shown in self._best(answer)]
        for index, choice in enumerate(choices):
            choice["index"] = index
        return {
            **answer.head.fields("text_completion"),
            "choices": choices,
            "usage": answer.usage.as_dict(),
        }

    def _best(self, answer: _Answer) -> list[_Shown]:
        """Of each prompt's `best_of` choices, the `n` most likely, the best first."""
        count, wanted = _counts(answer.request)
        if count == wanted:
            return answer.shown
        best: list[_Shown] = []
        for start in range(0, len(answer.shown), count):
            group = answer.shown[start : start + count]
            best += sorted(group, key=lambda shown: -shown.mean_score)[:wanted]
        return best

    async def _steps(self, answer: _Answer) -> AsyncGenerator[ChoiceStep]:
        sources = [
            shown.choice.steps(self._engine, engine_request)
            for shown, engine_request in zip(answer.shown, answer.requests, strict=True)
        ]
        try:
            async with aclosing(fan_in(sources)) as steps:
                async for step in steps:
                    shown = answer.shown[step.index]
                    if step.first is not None:
                        prompt = step.index // answer.count
                        answer.usage.found_cached(prompt, step.first.num_cached_tokens)
                        shown.prompt_positions = step.first.prompt_logprobs
                    shown.text += [d.text for d in step.deltas if isinstance(d, ContentDelta)]
                    shown.token_ids += step.token_ids
                    shown.logprobs += step.logprobs
                    shown.trace += step.trace
                    shown.score += sum(position.chosen.logprob for position in step.logprobs)
                    shown.finish_reason = step.finish_reason
                    shown.stop_reason = step.stop_reason
                    shown.closed = step.closed
                    if step.finish_reason is not None:
                        self._planner.validate(answer.plan, shown.choice)
                    yield step
        finally:
            self._engine.abandon(answer.requests)
            for start in range(0, len(answer.shown), answer.count):
                group = answer.shown[start : start + answer.count]
                self._planner.ended([shown.choice for shown in group])

    def _choice(self, answer: _Answer, shown: _Shown) -> dict[str, Any]:
        """What the choice has not shown yet; of a whole response, that is everything."""
        request = answer.request
        opening = not shown.opened
        shown.opened = True
        echo = shown.echo if opening else ""
        choice: dict[str, Any] = {
            "index": shown.choice.index,
            "text": echo + "".join(shown.text),
            "logprobs": None,
            "finish_reason": shown.finish_reason,
            "stop_reason": shown.stop_reason,
        }
        if shown.closed:
            choice["closed_within_budget"] = True
        if shown.num_logprobs is not None:
            positions: list[PositionLogprobs | None] = list(shown.logprobs)
            token_ids = shown.token_ids[: len(positions)]
            if opening and request.echo:
                positions = [*(shown.prompt_positions or ()), *positions]
                token_ids = [*shown.prompt_token_ids, *token_ids]
            choice["logprobs"], shown.offset = completion_logprobs(
                token_ids,
                positions,
                self._profile.tokenizer,
                num_top=shown.num_logprobs,
                first_offset=shown.offset,
            )
        if request.prompt_logprobs is not None and shown.prompt_positions is not None:
            choice["prompt_logprobs"] = prompt_logprobs(
                shown.prompt_positions, self._profile.tokenizer
            )
        if request.traced:
            choice["trace"] = list(shown.trace)
        if request.return_token_ids:
            choice["token_ids"] = list(shown.token_ids)
            choice["prompt_token_ids"] = shown.prompt_token_ids if opening else None
        return choice

    async def _prepare(self, request: CompletionRequest) -> _Answer:
        profile = self._profile
        words = len(request.bad_words or ())
        long = request.num_bytes > LONG_BODY or len(request.prompts) + words > FEW_PROMPTS
        prompts, params = await self._threads.run_if(long, self._read, request, self._engine.ready)
        only_echo = request.max_tokens == 0
        count, _ = _counts(request)
        self._engine.ensure_admission(count * len(prompts))
        shown_id = response_id("cmpl", request)
        plan, requests = await plan_ahead(
            self._engine,
            engine_requests(request, shown_id, prompts, params, count=count),
            lambda meanwhile: self._planner.plan_completion(
                request,
                drop_tokens=only_echo,
                max_tokens=min((one.max_tokens for one in params), default=None),
                meanwhile=meanwhile,
            ),
        )
        shown = [
            _Shown(
                choice=Choice(number * count + i, plan.settings),
                prompt_token_ids=prompt,
                echo=self._echo(request, number, prompt),
                num_logprobs=request.logprobs,
            )
            for number, prompt in enumerate(prompts)
            for i in range(count)
        ]
        usage = Usage(
            sum(map(len, prompts)),
            [each.choice for each in shown],
            show_cached=profile.show_cached_tokens,
        )
        current_caller().usage = usage
        return _Answer(
            head=ResponseHead(
                id=shown_id,
                created=int(time.time()),
                model=request.model or profile.name,
                system_fingerprint=profile.fingerprint,
            ),
            request=request,
            plan=plan,
            shown=shown,
            requests=requests,
            usage=usage,
        )

    def _read(
        self, request: CompletionRequest, ready: EngineReady | None
    ) -> tuple[list[list[int]], list[SamplingParams]]:
        """The ids of each prompt, and how to go on from them."""
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


def _counts(request: CompletionRequest) -> tuple[int, int]:
    """Choices generated and choices shown, for each prompt."""
    wanted = request.n or 1
    return max(wanted, request.best_of or 1), wanted


def _engine_logprobs(request: CompletionRequest) -> int | None:
    count, wanted = _counts(request)
    if request.logprobs is None and count > wanted:
        return 0  # best_of ranks by them
    return request.logprobs


def _prompt_logprobs(request: CompletionRequest) -> int | None:
    """Echoed tokens have probabilities as the new ones do."""
    if not request.echo or request.logprobs is None:
        return request.prompt_logprobs
    return max(request.logprobs, request.prompt_logprobs or 0)
