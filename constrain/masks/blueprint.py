"""A compiled constraint as text: one process compiles it, and another builds masks from it."""

from __future__ import annotations

from typing import Self

import msgspec

from formgate.constrain.rules.guard_plan import GuardPlan

Guards = tuple[tuple[bytes, GuardPlan], ...]


class Blueprint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either a grammar for llguidance (Lark, or JSON around a schema) with its guards, or the
    pattern of an Outlines index. `endings`: the texts that end the grammar's free texts.
    """

    source: str = ""
    guards: Guards = ()
    pattern: str | None = None
    endings: tuple[str, ...] = ()

    def dumps(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def loads(cls, text: str) -> Self:
        return msgspec.json.decode(text, type=cls)
