"""A compiled constraint on its way to the engine: a blueprint, and the budgets of one answer.
Processes in between forward its text unread.
"""

from __future__ import annotations

from typing import Self

import msgspec

from formgate.constrain.masks.closing import Budget
from formgate.constrain.masks.thinking import ThinkingBudget


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """`blueprint` stays text, as it is the key of cached grammars. `closing`: the budget within
    which the answer ends. `thinking`: that of its reasoning.
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
    """A constraint, and a number of tokens in which some answer is known to fit."""

    constraint: Constraint
    tokens: int

    def dumps(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def loads(cls, text: str) -> Self:
        return msgspec.json.decode(text, type=cls)
