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
    def cached_tokens(self) -> int | None:
        """Number of prompt tokens, over all prompts, that no choice had to compute; None if the
        server hides it.
        """
        return sum(self._cached.values()) if self._show_cached else None

    @property
    def prompt_tokens(self) -> int:
        return self._prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return sum(choice.num_tokens for choice in self._choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.num_reasoning_tokens for choice in self._choices)

    @property
    def total_tokens(self) -> int:
        return self._prompt_tokens + self.completion_tokens

    def as_dict(self) -> dict[str, Any]:
        """The usage of a chat completion and of a completion."""
        cached = self.cached_tokens
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": (
                None if cached is None else {"cached_tokens": cached, "audio_tokens": 0}
            ),
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
