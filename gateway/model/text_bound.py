"""Bounds the text that is encoded for one prompt. Encoding costs about half a second and 180 MB per
megabyte, so a text that cannot fit is refused first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formgate.gateway.errors import bad_request
from formgate.gateway.model.tokenizer import Tokenizer

# The bound where any number of tokens is allowed: they are only counted, or truncated.
MIN_COUNTED_BYTES = 1024 * 1024
COUNTED_BYTES_PER_TOKEN = 8  # of the context

# Few texts have more bytes per token. A longer text is counted in slices.
_USUAL_BYTES_PER_TOKEN = 8
_SLICE = 64 * 1024  # characters
# A slice's end may split a word into more tokens, but never doubles their number.
_SLACK = 2


@dataclass(frozen=True)
class TextBound:
    """`max_tokens`: the context's; None: any number of tokens."""

    max_bytes: int
    max_tokens: int | None = None

    def check(self, texts: Sequence[str], tokenizer: Tokenizer, param: str) -> None:
        """Raises ApiError 400 if a prompt of `texts` cannot fit."""
        size = sum(map(_num_bytes, texts))
        if self.max_tokens is None:
            if size > self.max_bytes:
                raise bad_request(
                    f"Invalid value for '{param}': a text of {size} bytes; at most "
                    f"{self.max_bytes} are encoded.",
                    param,
                    "string_above_max_length",
                )
        elif size > self.max_bytes or (
            size > _USUAL_BYTES_PER_TOKEN * self.max_tokens
            and _has_more_tokens(texts, _SLACK * self.max_tokens, tokenizer)
        ):
            raise bad_request(
                f"This model's maximum context length is {self.max_tokens} tokens. However, your "
                f"{param} has {size} bytes of text, which are more tokens than that. Please reduce "
                f"the length of the {param}.",
                param,
                "context_length_exceeded",
            )


def bound_of_prompt(
    max_model_len: int, tokenizer: Tokenizer, *, truncate: int | None = None
) -> TextBound:
    """The bound of a prompt to answer. A prompt to `truncate` may exceed the context."""
    if truncate is not None:
        return bound_of_count(max_model_len)
    return TextBound(max_model_len * tokenizer.longest, max_model_len)


def bound_of_count(max_model_len: int | None) -> TextBound:
    """The bound of a text whose tokens are only counted or returned."""
    return TextBound(max(MIN_COUNTED_BYTES, COUNTED_BYTES_PER_TOKEN * (max_model_len or 0)))


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _has_more_tokens(texts: Sequence[str], limit: int, tokenizer: Tokenizer) -> bool:
    """True if `texts` have more than `limit` tokens. Stops encoding once that is known."""
    found = 0
    for text in texts:
        for start in range(0, len(text), _SLICE):
            part = text[start : start + _SLICE]
            found += len(tokenizer.encode(part, add_special_tokens=False))
            if found > limit:
                return True
    return False
