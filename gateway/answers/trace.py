"""The trace of a constraint for the client: for each token its place in the JSON text, the number
of allowed tokens, and the probability mass that the mask removed.
"""

from __future__ import annotations

from typing import Any

from formgate.constrain.masks.json_position import JsonPointers
from formgate.engine.messages import TokenTrace
from formgate.gateway.model.logprobs import token_name
from formgate.gateway.model.tokenizer import Tokenizer


class Tracer:
    """Traces one choice. `json`: its content is one JSON text."""

    def __init__(self, tokenizer: Tokenizer, *, json: bool) -> None:
        self._tokenizer = tokenizer
        self._pointers = JsonPointers() if json else None

    def entry(self, token_id: int, trace: TokenTrace, *, in_content: bool) -> dict[str, Any]:
        """`in_content`: the token is neither reasoning nor the end of the answer."""
        pointer: str | None = None
        tokenizer = self._tokenizer
        if in_content and self._pointers is not None and token_id not in tokenizer.marker_ids:
            pointer = self._pointers.feed(tokenizer.token_bytes[token_id])
        return {
            "token": token_name(tokenizer, token_id),
            "pointer": pointer,
            "allowed": trace.allowed,
            "masked": min(trace.masked, 1.0),  # a float sum may exceed 1 by rounding
            "forced": trace.allowed == 1,
        }
