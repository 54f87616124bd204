"""Turns a request's sampling fields and the model's defaults into the engine's parameters. Checks
token ids against the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.errors import bad_request
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.fields import GenerationRequest

T = TypeVar("T")


@dataclass(frozen=True)
class SamplingDefaults:
    """Values for the sampling fields that a request leaves out."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def load_sampling_defaults(source: str, model_dir: Path) -> SamplingDefaults:
    """`source` is `--generation-config`: "auto" (the model's own), "vllm" (none) or a folder."""
    if source == "vllm":
        return SamplingDefaults()
    path = (model_dir if source == "auto" else Path(source)) / "generation_config.json"
    if not path.is_file():
        if source != "auto":
            raise FileNotFoundError(f"no generation_config.json in {source}")
        return SamplingDefaults()
    found = json.loads(path.read_text(encoding="utf-8"))
    given = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return SamplingDefaults(
        temperature=float(given.get("temperature", 1.0)),
        top_p=float(given.get("top_p", 1.0)),
        top_k=int(given.get("top_k", 0)),
        min_p=float(given.get("min_p", 0.0)),
        repetition_penalty=float(given.get("repetition_penalty", 1.0)),
    )


def sampling_params(
    request: GenerationRequest,
    defaults: SamplingDefaults,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """The parameters of one prompt. `with_max_tokens` derives those of further prompts without
    another check. Raises ApiError 400 for ids outside the vocabulary."""
    _check_min_tokens(request.min_tokens, max_tokens)
    size = tokenizer.size
    _check_ids(request.stop_token_ids or (), "stop_token_ids", size)
    allowed = request.allowed_token_ids
    if allowed is not None:
        if not allowed:
            raise bad_request("'allowed_token_ids' must not be empty.", "allowed_token_ids")
        if len(allowed) > size:
            raise bad_request(
                f"'allowed_token_ids' has {len(allowed)} ids; the vocabulary has {size}.",
                "allowed_token_ids",
            )
        _check_ids(allowed, "allowed_token_ids", size)
    top_k = _given(request.top_k, defaults.top_k)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        temperature=float(_given(request.temperature, defaults.temperature)),
        top_p=float(_given(request.top_p, defaults.top_p)),
        top_k=0 if top_k <= 0 or top_k >= size else top_k,
        min_p=float(_given(request.min_p, defaults.min_p)),
        frequency_penalty=float(request.frequency_penalty or 0.0),
        presence_penalty=float(request.presence_penalty or 0.0),
        repetition_penalty=float(_given(request.repetition_penalty, defaults.repetition_penalty)),
        logit_bias=_logit_bias(request, size),
        seed=request.seed,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=request.ignore_eos,
        bad_words=_bad_words(request.bad_words or (), tokenizer),
        allowed_token_ids=None if allowed is None else tuple(allowed),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        trace=request.traced,
    )


def with_max_tokens(params: SamplingParams, max_tokens: int) -> SamplingParams:
    """`params` with another `max_tokens`. Raises ApiError 400 if it is below `min_tokens`."""
    if max_tokens == params.max_tokens:
        return params
    _check_min_tokens(params.min_tokens, max_tokens)
    return msgspec.structs.replace(params, max_tokens=max_tokens)


def num_token_ids(params: SamplingParams) -> int:
    """The number of token ids that a sequence sends to the engine besides its prompt."""
    return (
        len(params.stop_token_ids)
        + len(params.logit_bias or ())
        + len(params.allowed_token_ids or ())
        + sum(map(len, params.bad_words))
    )


def _check_min_tokens(min_tokens: int, max_tokens: int) -> None:
    if min_tokens > max_tokens:
        raise bad_request(
            f"'min_tokens' ({min_tokens}) is greater than the number of tokens that may "
            f"be generated ({max_tokens}).",
            "min_tokens",
        )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _check_ids(token_ids: Sequence[int], param: str, size: int) -> None:
    if token_ids and (largest := max(token_ids)) >= size:
        raise bad_request(f"No token has id {largest}.", f"{param}[{token_ids.index(largest)}]")


def _logit_bias(request: GenerationRequest, size: int) -> dict[int, float] | None:
    if not request.logit_bias:
        return None
    bias: dict[int, float] = {}
    for key, value in request.logit_bias.items():
        if not key.isdecimal() or len(key) > 9 or int(key) >= size:
            shown = key if len(key) <= 20 else key[:20] + "..."
            raise bad_request(f"'{shown}' is not a token id.", "logit_bias")
        bias[int(key)] = float(value)
    return bias


def _bad_words(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The ids of each word, at the start of a text and after a space."""
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip()):
            if ids := tokenizer.encode_bytes(text.encode()):
                sequences[tuple(ids)] = None
    return tuple(sequences)
