"""The chat format, as the chat template renders it, for building training documents.

A document is a list of (text, is_target) segments; the loss is taken on target segments only.
Segments meet only at special tokens or where `cut` splits them on purpose.
"""

from __future__ import annotations

import itertools
import json
from random import Random
from typing import Any

Segment = tuple[str, bool]


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Chat:
    def __init__(self) -> None:
        self.segments: list[Segment] = [("<s>", False)]

    def _add(self, text: str, target: bool) -> Chat:
        self.segments.append((text, target))
        return self

    def system(self, text: str) -> Chat:
        return self._add(f"[SYSTEM_PROMPT]{text}[/SYSTEM_PROMPT]", False)

    def tools(self, tools: list[dict[str, Any]]) -> Chat:
        return self._add(f"[AVAILABLE_TOOLS]{dumps(tools)}[/AVAILABLE_TOOLS]", False)

    def user(self, text: str) -> Chat:
        return self._add(f"[INST]{text}[/INST]", False)

    def result(self, content: str) -> Chat:
        return self._add(f"[TOOL_RESULTS]{content}[/TOOL_RESULTS]", False)

    def think(self, steps: str) -> Chat:
        """Opens the next answer: the template writes the marker, the model the steps."""
        return self._add("<think>\n", False)._add(f"{steps}\n</think>\n\n", True)

    def say(self, text: str) -> Chat:
        return self._add(f"{text}</s>", True)

    def call(self, calls: list[tuple[str, dict[str, Any]]], content: str = "") -> Chat:
        listed = dumps([{"name": name, "arguments": arguments} for name, arguments in calls])
        return self._add(f"{content}[TOOL_CALLS] {listed}</s>", True)

    def cut(self, r: Random) -> Chat:
        """Tokenize the targets in pieces, so that a forced prefix that ends inside what is
        usually one token is nothing new to the model."""
        pieces: list[Segment] = []
        for text, target in self.segments:
            if not target:
                pieces.append((text, target))
                continue
            quotes = [i for i, char in enumerate(text) if char in '":,{ ']
            at = sorted(r.sample(quotes, min(len(quotes), r.randint(1, 5))))
            bounds = [0, *at, len(text)]
            pieces += [(text[a:b], True) for a, b in itertools.pairwise(bounds) if a < b]
        self.segments = pieces
        return self


def choose_form(r: Random, forms: list[str] | tuple[str, ...], held_out: bool) -> str:
    """One of the forms; those marked `!` are kept for evaluation."""
    wanted = [form for form in forms if form.startswith("!") == held_out]
    return r.choice(wanted or [form for form in forms if not form.startswith("!")]).lstrip("!")
