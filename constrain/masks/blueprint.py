"""A compiled constraint as text: what one process works out and another builds its masks from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from formgate.constrain.rules.guard_plan import GuardPlan, Place

Guards = tuple[tuple[bytes, GuardPlan], ...]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Either a grammar for llguidance (Lark, or JSON around a schema), with its guards, or the
    pattern of an index of Outlines. `endings`: what ends the free texts in the grammar.
    """

    source: str = ""
    guards: Guards = ()
    pattern: str | None = None
    endings: tuple[str, ...] = ()

    def dumps(self) -> str:
        """One line of JSON."""
        guards = [
            [anchor.decode("latin-1"), [asdict(place) for place in plan.places]]
            for anchor, plan in self.guards
        ]
        return json.dumps(
            {
                "source": self.source,
                "guards": guards,
                "pattern": self.pattern,
                "endings": self.endings,
            }
        )

    @classmethod
    def loads(cls, text: str) -> Blueprint:
        found = json.loads(text)
        guards = tuple(
            (anchor.encode("latin-1"), GuardPlan(tuple(_place(place) for place in places)))
            for anchor, places in found["guards"]
        )
        return cls(found["source"], guards, found["pattern"], tuple(found["endings"]))


def _place(found: dict[str, object]) -> Place:
    def numbers(value: object) -> tuple[int, ...]:
        assert isinstance(value, list)
        return tuple(value)

    members, items = found["members"], found["items"]
    assert isinstance(members, dict)
    assert isinstance(items, list)
    return Place(
        items_differ=bool(found["items_differ"]),
        names_differ=bool(found["names_differ"]),
        members={name: numbers(value) for name, value in members.items()},
        other_members=numbers(found["other_members"]),
        items=tuple(numbers(item) for item in items),
        other_items=numbers(found["other_items"]),
    )
