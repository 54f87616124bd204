"""The messages between the HTTP processes and the engine process, in msgpack. Nothing else crosses
their sockets.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from formgate.engine.sampling_params import SamplingParams


class AddRequest(msgspec.Struct, tag="add", omit_defaults=True):
    """One sequence to generate. A request with `n > 1` sends several; they share the prompt's
    blocks by the prefix cache.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    constraint: str | None = None  # opaque to the engine; handed to the ConstraintFactory
    held: bool = False  # compute the prompt, but sample only after a Release
    lora_name: str | None = None
    priority: int = 0  # lower runs earlier under the priority policy
    cache_salt: str | None = None
    client: int = 0  # number of the HTTP process that gets the outputs


class Release(msgspec.Struct, tag="release"):
    """The constraint of a held request, which starts its sampling."""

    request_id: str
    constraint: str


class AbortRequests(msgspec.Struct, tag="abort"):
    """End requests at once. Each unfinished one gets an output with finish_reason "abort"."""

    request_ids: list[str]


class Attach(msgspec.Struct, tag="attach"):
    """The first command of an HTTP process other than the first, which may replace one that died:
    abort the requests of its index, and send it EngineReady."""

    client: int


class LoadAdapter(msgspec.Struct, tag="load_adapter", omit_defaults=True):
    """Give an adapter its name. AdaptersChanged with the same `command_id` tells the end."""

    command_id: str
    name: str
    path: str  # PEFT folder
    base_model_name: str | None = None
    replace: bool = False  # another adapter may have the name; running sequences keep it


class UnloadAdapter(msgspec.Struct, tag="unload_adapter"):
    """Forget an adapter's name; running sequences keep it. Ends as LoadAdapter does."""

    command_id: str
    name: str


class Shutdown(msgspec.Struct, tag="shutdown"):
    """End the engine process after the current step."""


EngineCommand = (
    AddRequest | Release | AbortRequests | Attach | LoadAdapter | UnloadAdapter | Shutdown
)


class TokenLogprob(msgspec.Struct, array_like=True):
    token_id: int
    logprob: float
    rank: int  # 1 is the most likely token of the whole vocabulary


class PositionLogprobs(msgspec.Struct, array_like=True):
    """The chosen token first, then the requested number of most likely ones, best first."""

    chosen: TokenLogprob
    top: list[TokenLogprob]


class TokenTrace(msgspec.Struct, array_like=True):
    """The effect of the mask on one token's distribution."""

    allowed: int  # number of tokens that the mask left
    masked: float  # probability that the mask removed, of the model's distribution at temperature 1


# The request's field that caused an error; "queue": it waited longer than `max_queue_seconds`.
# "model": no adapter has this name (any more).
Fault = Literal["constraint", "allowed_token_ids", "bad_words", "queue", "model"]


class TokenOutput(msgspec.Struct, array_like=True):
    """The tokens that one step added to one sequence. The last output carries `finish_reason`."""

    request_id: str
    token_ids: list[int]  # new tokens, in order; EOS and stop ids are included
    finish_reason: str | None = None  # "stop" | "length" | "abort" | "error"
    stop_token_id: int | None = None  # the EOS or stop token that ended the sequence
    logprobs: list[PositionLogprobs] | None = None  # one per token of `token_ids`
    prompt_logprobs: list[PositionLogprobs | None] | None = None  # on the first output only
    num_cached_tokens: int = 0  # prompt tokens served from the prefix cache; on the first output
    queue_time: float = 0.0  # seconds from arrival to first schedule; on the first output
    error: str | None = None  # with finish_reason "error": the message for the client
    trace: list[TokenTrace] | None = None  # one per token of `token_ids`
    closed: bool = False  # with finish_reason "length": the constraint ended the answer within it
    fault: Fault | None = None  # with `error`: the field that caused it; None: not the request


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
    mask_wait: float = 0.0  # seconds that sampling waited for bitmasks after the forward pass
    running_adapters: list[str] = []  # names, sorted
    waiting_adapters: list[str] = []


class StepOutputs(msgspec.Struct, tag="outputs"):
    """The outputs of one step, and of sequences that ended between steps."""

    outputs: list[TokenOutput]
    stats: EngineStats


class EngineIdle(msgspec.Struct, tag="idle"):
    """Sent once a second while idle. An engine that sends nothing hangs."""


class LoadProgress(msgspec.Struct, tag="progress"):
    """Startup progress for the console: `stage` in words, `done` of `total`."""

    stage: str
    done: int
    total: int


class AdapterInfo(msgspec.Struct, array_like=True):
    name: str
    path: str
    base_model_name: str | None = None


class AdaptersChanged(msgspec.Struct, tag="adapters"):
    """The end of a LoadAdapter or UnloadAdapter, for all HTTP processes."""

    command_id: str
    adapters: list[AdapterInfo]  # all of them, from now on
    error: str | None = None  # the message for the client


class EngineReady(msgspec.Struct, tag="ready"):
    """The engine accepts requests."""

    max_model_len: int  # tokens, prompt and answer together
    num_blocks: int
    block_size: int
    vocab_size: int  # of the logits, padding included
    device: str
    dtype: str
    adapters: list[AdapterInfo] = []


class EngineFailed(msgspec.Struct, tag="failed"):
    """The engine cannot start or continue. `message` is one line for the operator."""

    message: str


EngineEvent = StepOutputs | EngineIdle | LoadProgress | AdaptersChanged | EngineReady | EngineFailed
