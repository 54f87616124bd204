"""What crosses the socket between the HTTP process and the engine process, in msgpack.

These structs are the whole vocabulary of the two processes; neither sends anything else.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from formgate.engine.sampling_params import SamplingParams


class AddRequest(msgspec.Struct, tag="add", omit_defaults=True):
    """One sequence to generate. `n > 1` is several of these; the prefix cache shares the prompt."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    constraint: str | None = None  # opaque to the engine; handed to the ConstraintFactory
    held: bool = False  # the prompt is computed, and nothing sampled before a Release
    lora_name: str | None = None
    priority: int = 0  # lower runs earlier under the priority policy
    cache_salt: str | None = None
    client: int = 0  # which of several HTTP processes asks, and is answered


class Release(msgspec.Struct, tag="release"):
    """The constraint of a held request, which may be sampled from with it."""

    request_id: str
    constraint: str


class AbortRequests(msgspec.Struct, tag="abort"):
    request_ids: list[str]


class Shutdown(msgspec.Struct, tag="shutdown"):
    pass


EngineCommand = AddRequest | Release | AbortRequests | Shutdown


class TokenLogprob(msgspec.Struct, array_like=True):
    token_id: int
    logprob: float
    rank: int  # 1 is the most likely token of the whole vocabulary


class PositionLogprobs(msgspec.Struct, array_like=True):
    """The chosen token first, then the requested number of most likely ones, best first."""

    chosen: TokenLogprob
    top: list[TokenLogprob]


class TokenTrace(msgspec.Struct, array_like=True):
    """What the mask did before a token was chosen."""

    allowed: int  # tokens
    masked: float  # of the model's own probability at temperature 1, what was taken away


# A field of the request, or that it has waited longer than `max_queue_seconds`.
Fault = Literal["constraint", "allowed_token_ids", "bad_words", "queue"]


class TokenOutput(msgspec.Struct, array_like=True):
    """What one step added to one sequence. The last one carries `finish_reason`."""

    request_id: str
    token_ids: list[int]  # new tokens, in order; EOS and stop ids are included
    finish_reason: str | None = None  # "stop" | "length" | "abort" | "error"
    stop_token_id: int | None = None  # the token that ended it, if a token did
    logprobs: list[PositionLogprobs] | None = None  # one per token of `token_ids`
    prompt_logprobs: list[PositionLogprobs | None] | None = None  # on the first output only
    num_cached_tokens: int = 0  # prompt tokens served from the prefix cache; on the first output
    queue_time: float = 0.0  # seconds from arrival to first schedule; on the first output
    error: str | None = None  # with finish_reason "error": what to tell the client
    trace: list[TokenTrace] | None = None  # one per token of `token_ids`
    closed: bool = False  # with finish_reason "length": a constraint ended the answer in time
    fault: Fault | None = None  # with `error`: what of the request led to it; None: nothing did


class EngineStats(msgspec.Struct, array_like=True):
    """Gauges are the state after the step; counters are the step's own increments."""

    num_running: int
    num_waiting: int
    kv_cache_usage: float  # 0..1
    num_preemptions: int = 0
    prefix_cache_queries: int = 0  # prompt tokens looked up
    prefix_cache_hits: int = 0  # prompt tokens found
    num_batched_tokens: int = 0  # query tokens of the step
    num_forced_tokens: int = 0
    mask_time: float = 0.0  # seconds spent filling bitmasks
    mask_wait: float = 0.0  # seconds sampling waited for them after the forward pass was done


class StepOutputs(msgspec.Struct, tag="outputs"):
    outputs: list[TokenOutput]
    stats: EngineStats


class EngineIdle(msgspec.Struct, tag="idle"):
    """Once a second while there is nothing to do: silence means that the engine hangs."""


class LoadProgress(msgspec.Struct, tag="progress"):
    """Startup progress for the console: `stage` in words, `done` of `total`."""

    stage: str
    done: int
    total: int


class EngineReady(msgspec.Struct, tag="ready"):
    max_model_len: int  # tokens, prompt and answer together
    num_blocks: int
    block_size: int
    vocab_size: int  # of the logits, padding included
    device: str
    dtype: str


class EngineFailed(msgspec.Struct, tag="failed"):
    """The engine cannot start or go on. `message` is one clear line for the operator."""

    message: str


EngineEvent = StepOutputs | EngineIdle | LoadProgress | EngineReady | EngineFailed
