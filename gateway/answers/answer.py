"""An admitted request and the one stream of its steps. Each wire format has a reader of these
steps; none of them is known here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.answer_fold import AnswerFold, ChoiceStep
from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.answers.caller import current_caller
from formgate.gateway.answers.choice import Choice, Engine
from formgate.gateway.answers.engine_requests import engine_requests, plan_ahead, response_id
from formgate.gateway.answers.usage import Usage
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.processes.fan_in import fan_in
from formgate.gateway.protocol.fields import GenerationRequest


@dataclass(frozen=True)
class ResponseHead:
    """What every chunk of one response repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": None,
            "system_fingerprint": self.system_fingerprint,
        }


@dataclass(frozen=True)
class Answer:
    """A request that has passed every check. Its owner must iterate over `steps` or await
    `complete` at once: the end of either releases what the engine holds for it.
    """

    head: ResponseHead
    plan: AnswerPlan
    prompts: Sequence[list[int]]  # token ids
    choices: Sequence[Choice]  # a prompt's own side by side
    usage: Usage
    _requests: Sequence[AddRequest]  # one for each choice
    _engine: Engine
    _planner: AnswerPlanner

    @property
    def choices_per_prompt(self) -> int:
        return len(self.choices) // len(self.prompts)

    @property
    def num_logprobs(self) -> int | None:
        """None: the client wants none; k: the token's own and those of the k best."""
        return self._requests[0].params.logprobs

    @property
    def custom_tools(self) -> frozenset[str]:
        """Names of the tools that take one text."""
        return frozenset(tool.name for tool in self.plan.promise.tools.tools if tool.is_custom)

    async def steps(self) -> AsyncGenerator[ChoiceStep]:
        """The steps of all choices. A choice that ends is validated before its end is shown.
        Closing the generator aborts the request."""
        sources = [
            choice.steps(self._engine, engine_request)
            for choice, engine_request in zip(self.choices, self._requests, strict=True)
        ]
        per_prompt = self.choices_per_prompt
        try:
            async with aclosing(fan_in(sources)) as steps:
                async for step in steps:
                    if step.first is not None:
                        prompt = step.index // per_prompt
                        self.usage.found_cached(prompt, step.first.num_cached_tokens)
                    if step.finish_reason is not None:
                        self._planner.validate(self.plan, self.choices[step.index])
                    yield step
        finally:
            self._engine.abandon(self._requests)
            for start in range(0, len(self.choices), per_prompt):
                self._planner.ended(self.choices[start : start + per_prompt])

    async def complete(self) -> None:
        """Run to the end; the folds of the choices then hold the answer. Cancelling it aborts the
        request."""
        async with aclosing(self.steps()) as steps:
            async for _ in steps:
                pass


class AnswerAdmission:
    """Makes answers of requests that have been read: it plans them and builds their choices."""

    def __init__(self, profile: ModelProfile, engine: Engine, planner: AnswerPlanner) -> None:
        self._profile = profile
        self._engine = engine
        self._planner = planner

    async def admit(
        self,
        request: GenerationRequest,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        plan: Callable[[Callable[[], Awaitable[None]]], Awaitable[AnswerPlan]],
        *,
        id_prefix: str,
        count: int,
        keeps_tokens: bool,
    ) -> Answer:
        """`count` choices for each prompt. `plan` is called as `plan_ahead` says; `keeps_tokens`:
        the folds of the choices keep their tokens. Raises ApiError."""
        self._engine.ensure_admission(count * len(prompts))
        shown_id = response_id(id_prefix, request)
        made, requests = await plan_ahead(
            self._engine,
            engine_requests(request, shown_id, prompts, params, count=count),
            plan,
        )
        choices = [Choice(i, made.settings, AnswerFold(keeps_tokens)) for i in range(len(requests))]
        profile = self._profile
        usage = Usage(sum(map(len, prompts)), choices, show_cached=profile.show_cached_tokens)
        current_caller().usage = usage
        head = ResponseHead(
            id=shown_id,
            created=int(time.time()),
            model=request.model or profile.name,
            system_fingerprint=profile.fingerprint,
        )
        return Answer(head, made, prompts, choices, usage, requests, self._engine, self._planner)
