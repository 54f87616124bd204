"""What a client sees of how its constraint worked on each token: where in the JSON text the token
stands, how many were allowed, and what of the model's probability was taken away.
"""

from __future__ import annotations

from typing import Any

from formgate.constrain.masks.json_position import JsonPointers
from formgate.engine.messages import TokenTrace
from formgate.gateway.model.logprobs import token_name
from formgate.gateway.model.tokenizer import Tokenizer


class Tracer:
    """Of one choice. `json`: its content is one JSON text."""

    def __init__(self, tokenizer: Tokenizer, *, json: bool) -> None:
        self._tokenizer = tokenizer
        self._pointers = JsonPointers() if json else None

    def entry(self, token_id: int, trace: TokenTrace, *, in_content: bool) -> dict[str, Any]:
        """`in_content`: it is neither reasoning nor the end of the answer."""
        pointer: str | None = None
        tokenizer = self._tokenizer
        if in_content and self._pointers is not None and token_id not in tokenizer.marker_ids:
            pointer = self._pointers.feed(tokenizer.token_bytes[token_id])
        return {
            "token": token_name(tokenizer, token_id),
            "pointer": pointer,
            "allowed": trace.allowed,
            "masked": min(trace.masked, 1.0),  # a sum of floats may pass it by a rounding
            "forced": trace.allowed == 1,
        }
