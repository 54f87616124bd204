"""Splits a client's request into engine requests: one for each choice, with its own id and, if the
client gave a seed, its own seed.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.answer_plan import AnswerPlan
from formgate.gateway.answers.caller import current_caller
from formgate.gateway.answers.choice import Engine
from formgate.gateway.errors import bad_request
from formgate.gateway.model.sampling import num_token_ids
from formgate.gateway.protocol.fields import GenerationRequest
from formgate.gateway.protocol.limits import MAX_SENT_IDS


def response_id(prefix: str, request: GenerationRequest) -> str:
    return f"{prefix}-{request.request_id or secrets.token_hex(16)}"


def engine_requests(
    request: GenerationRequest,
    shown_id: str,
    prompts: Sequence[list[int]],
    params: Sequence[SamplingParams],
    *,
    count: int,
) -> list[AddRequest]:
    """`count` requests for each prompt; those of a prompt are adjacent. `params` has one entry per
    prompt; entries differ only in `max_tokens`. Raises ApiError 400 if all requests together have
    too many token ids."""
    sent = count * (sum(map(len, prompts)) + len(prompts) * num_token_ids(params[0]))
    if sent > MAX_SENT_IDS:
        raise bad_request(
            f"The request asks for {count * len(prompts)} sequences, which carry {sent} token ids "
            "in their prompts, 'allowed_token_ids', 'logit_bias', 'stop_token_ids' and "
            f"'bad_words'. At most {MAX_SENT_IDS} are allowed.",
            "n" if count > 1 else "prompt",
        )
    # Two clients may send the same request_id, so the engine's ids must differ.
    caller = current_caller()
    cache_salt = caller.cache_salt(request.cache_salt)
    own = f"{shown_id}-{secrets.token_hex(4)}" if request.request_id else shown_id
    return [
        AddRequest(
            request_id=f"{own}-{number * count + i}",
            prompt_token_ids=prompt,
            params=_with_seed(prompt_params, i),
            lora_name=caller.adapter,
            priority=request.priority,
            cache_salt=cache_salt,
        )
        for number, (prompt, prompt_params) in enumerate(zip(prompts, params, strict=True))
        for i in range(count)
    ]


async def plan_ahead(
    engine: Engine,
    requests: Sequence[AddRequest],
    plan: Callable[[Callable[[], Awaitable[None]]], Awaitable[AnswerPlan]],
) -> tuple[AnswerPlan, list[AddRequest]]:
    """Await `plan`, which gets a function to call before it compiles a constraint: the engine then
    computes the prompts meanwhile. Returns the plan and the requests with their constraint; the
    caller must `abandon` these in the end.
    """
    try:
        made = await plan(partial(engine.begin, requests))
    except BaseException:
        engine.abandon(requests)
        raise
    return made, [msgspec.structs.replace(one, constraint=made.constraint) for one in requests]


def _with_seed(params: SamplingParams, i: int) -> SamplingParams:
    if params.seed is None or i == 0:
        return params
    return msgspec.structs.replace(params, seed=params.seed + i)
