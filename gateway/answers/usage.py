"""Token usage of a request, as OpenAI counts it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from formgate.gateway.answers.choice import Choice


class Usage:
    """Token counts of one request. A prompt counts once for all its choices: tokens that the first
    choice computes and the others find in the cache are not cached tokens.
    """

    __slots__ = ("_cached", "_choices", "_prompt_tokens", "_show_cached")

    def __init__(
        self, prompt_tokens: int, choices: Iterable[Choice], *, show_cached: bool = True
    ) -> None:
        self._prompt_tokens = prompt_tokens
        self._choices = tuple(choices)
        self._show_cached = show_cached
        self._cached: dict[int, int] = {}  # by prompt

    def found_cached(self, prompt: int, num_tokens: int) -> None:
        """Record that a choice of prompt number `prompt` found `num_tokens` in the cache."""
        self._cached[prompt] = min(num_tokens, self._cached.get(prompt, num_tokens))

    @property
    def cached_tokens(self) -> int:
        """Number of prompt tokens, over all prompts, that no choice had to compute."""
        return sum(self._cached.values())

    @property
    def prompt_tokens(self) -> int:
        return self._prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return sum(choice.num_tokens for choice in self._choices)

    def as_dict(self) -> dict[str, Any]:
        completion_tokens = self.completion_tokens
        reasoning_tokens = sum(choice.num_reasoning_tokens for choice in self._choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self._prompt_tokens + completion_tokens,
            "prompt_tokens_details": (
                {"cached_tokens": self.cached_tokens, "audio_tokens": 0}
                if self._show_cached
                else None
            ),
            "completion_tokens_details": {
                "reasoning_tokens": reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
