"""A compiled constraint on its way to the engine: a blueprint, and the budgets of the answer under
it. The processes in between pass its text on and read nothing of it.
"""

from __future__ import annotations

from typing import Self

import msgspec

from formgate.constrain.masks.closing import Budget
from formgate.constrain.masks.thinking import ThinkingBudget


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """`blueprint` stays text: a grammar that is in use already is found by it. `closing`: the
    answer ends within this budget. `thinking`: its reasoning does.
    """

    blueprint: msgspec.Raw
    closing: Budget | None = None
    thinking: ThinkingBudget | None = None

    @classmethod
    def of(
        cls,
        blueprint: str,
        closing: Budget | None = None,
        thinking: ThinkingBudget | None = None,
    ) -> Self:
        return cls(msgspec.Raw(blueprint), closing, thinking)

    def dumps(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def loads(cls, text: str) -> Self:
        return msgspec.json.decode(text, type=cls)

    @property
    def blueprint_text(self) -> str:
        return bytes(self.blueprint).decode()


class SizedConstraint(msgspec.Struct, frozen=True):
    """A constraint with the number of tokens in which an answer under it is known to fit."""

    constraint: Constraint
    tokens: int

    def dumps(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def loads(cls, text: str) -> Self:
        return msgspec.json.decode(text, type=cls)
