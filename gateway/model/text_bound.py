"""How much text is encoded for one prompt. Encoding costs about half a second and 180 MB for each
megabyte, so a text that cannot fit is refused before it is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formgate.gateway.errors import bad_request
from formgate.gateway.model.tokenizer import Tokenizer

# Where any number of tokens may come out: they are only counted, or cut to the last ones.
MIN_COUNTED_BYTES = 1024 * 1024
COUNTED_BYTES_PER_TOKEN = 8  # of the context

# Few texts have more bytes a token: one that would need so many is looked at in slices.
_USUAL_BYTES_PER_TOKEN = 8
_SLICE = 64 * 1024  # characters
# Where a slice ends, a word may have become several tokens; twice as many never do.
_SLACK = 2


@dataclass(frozen=True)
class TextBound:
    """`max_tokens`: of the context; None where any number may come out."""

    max_bytes: int
    max_tokens: int | None = None

    def check(self, texts: Sequence[str], tokenizer: Tokenizer, param: str) -> None:
        """Raises ApiError 400 for a prompt of `texts` that cannot fit."""
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
    """Of a prompt that is answered. One that is truncated may be longer than the context."""
    if truncate is not None:
        return bound_of_count(max_model_len)
    return TextBound(max_model_len * tokenizer.longest, max_model_len)


def bound_of_count(max_model_len: int | None) -> TextBound:
    """Of a text whose tokens are only counted or shown."""
    return TextBound(max(MIN_COUNTED_BYTES, COUNTED_BYTES_PER_TOKEN * (max_model_len or 0)))


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _has_more_tokens(texts: Sequence[str], limit: int, tokenizer: Tokenizer) -> bool:
    """No more is encoded than it takes to know."""
    found = 0
    for text in texts:
        for start in range(0, len(text), _SLICE):
            part = text[start : start + _SLICE]
            found += len(tokenizer.encode(part, add_special_tokens=False))
            if found > limit:
                return True
    return False
