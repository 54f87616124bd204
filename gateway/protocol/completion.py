"""The body of `POST /v1/completions`, as types. Cross-field rules are in `rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from formgate.gateway.protocol.fields import GenerationRequest, TokenIds

Prompt = str | TokenIds | list[str] | list[TokenIds]


class CompletionRequest(GenerationRequest):
    prompt: Prompt
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0)] | None = None
    suffix: str | None = None
    add_special_tokens: bool = True

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One entry for each prompt of the request."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        ids = [item for item in prompt if isinstance(item, int)]
        return [ids] if ids else [item for item in prompt if not isinstance(item, int)]
