"""The body of `POST /v1/completions`, as types. Cross-field rules are in `rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

from pydantic import Field

from formgate.gateway.protocol.fields import Count, GenerationRequest, TokenIds, up_to
from formgate.gateway.protocol.limits import MAX_CHOICES, MAX_PROMPTS

Prompt = (
    str
    | TokenIds
    | Annotated[list[str], up_to(MAX_PROMPTS)]
    | Annotated[list[TokenIds], up_to(MAX_PROMPTS)]
)


class CompletionRequest(GenerationRequest):
    prompt: Prompt
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool = False
    logprobs: Count | None = None
    suffix: str | None = None
    add_special_tokens: bool = True

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One entry for each prompt of the request."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return cast(list[list[int]], [prompt])
        return cast(list[str] | list[list[int]], prompt)
