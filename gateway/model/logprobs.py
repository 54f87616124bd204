"""Log probabilities in the formats of chat completions and completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from formgate.engine.messages import PositionLogprobs, TokenLogprob
from formgate.gateway.model.tokenizer import Tokenizer

LOWEST = -9999.0  # OpenAI's value for minus infinity, which JSON lacks


def _clamped(logprob: float) -> float:
    return max(logprob, LOWEST)


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    """The token's text; an incomplete character as its bytes, so that names stay distinct."""
    token = _bytes(tokenizer, token_id)
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    # Padded logits are no tokens, but an untrained model may rank them high.
    return tokenizer.token_bytes[token_id] if token_id < tokenizer.size else b""


def chat_logprobs(
    positions: Iterable[PositionLogprobs], tokenizer: Tokenizer, num_top: int
) -> list[dict[str, Any]]:
    return [
        {
            **_chat_entry(position.chosen, tokenizer),
            "top_logprobs": [_chat_entry(top, tokenizer) for top in position.top[:num_top]],
        }
        for position in positions
    ]


def _chat_entry(logprob: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": token_name(tokenizer, logprob.token_id),
        "logprob": _clamped(logprob.logprob),
        "bytes": list(_bytes(tokenizer, logprob.token_id)),
    }


def completion_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[PositionLogprobs | None],
    tokenizer: Tokenizer,
    *,
    num_top: int,
    first_offset: int,
) -> tuple[dict[str, Any], int]:
    """OpenAI's four parallel lists, and the character offset of the next token. A position without
    probabilities (a prompt's first token) is null.
    """
    offset = first_offset
    offsets: list[int] = []
    names: list[str] = []
    chosen: list[float | None] = []
    top: list[dict[str, float] | None] = []
    for token_id, position in zip(token_ids, positions, strict=True):
        offsets.append(offset)
        offset += len(tokenizer.token_text(token_id)) if token_id < tokenizer.size else 0
        names.append(token_name(tokenizer, token_id))
        if position is None:
            chosen.append(None)
            top.append(None)
            continue
        chosen.append(_clamped(position.chosen.logprob))
        best = [*position.top[:num_top], position.chosen]
        top.append({token_name(tokenizer, t.token_id): _clamped(t.logprob) for t in best})
    lists = {
        "text_offset": offsets,
        "token_logprobs": chosen,
        "tokens": names,
        "top_logprobs": top,
    }
    return lists, offset


def prompt_logprobs(
    positions: Sequence[PositionLogprobs | None], tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """vLLM's format: for each prompt token, the candidates by token id."""
    return [
        None
        if position is None
        else {
            str(entry.token_id): {
                "logprob": _clamped(entry.logprob),
                "rank": entry.rank,
                "decoded_token": token_name(tokenizer, entry.token_id),
            }
            for entry in (position.chosen, *position.top)
        }
        for position in positions
    ]
