"""The calls that a template is asked to write, and its answers. A renderer of templates stands
outside of this package: it is a function from calls to the text that the model would have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from formgate.parsers.formats.format import Tool


@dataclass(frozen=True)
class Call:
    """A call in a conversation. `id`: nine letters and digits, which every template takes."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = "idqzkwxv0"


class NotWritten(ValueError):
    """The template refuses the conversation or does not show its calls. The message says which."""


@dataclass(frozen=True)
class WrittenTurn:
    """`text`: what the model writes after the prompt, to the end of its turn. `ending`: what the
    template writes after a turn without calls, so `text` may end with it.
    """

    text: str
    ending: str = ""


class TurnWriter(Protocol):
    """The model's turn with these calls, as the template shows it. Raises NotWritten."""

    def __call__(self, calls: Sequence[Call], thought: str = "") -> WrittenTurn: ...


FIRST, SECOND = "first_key", "second_key"
KEYS = (FIRST, SECOND)
NAMES = ("probe_quartz", "probe_basalt", "probe_flint")
_WORDS = (("marble", "granite"), ("sandstone", "obsidian"), ("limestone", "dolomite"))
_TEXT = {"type": "string", "description": "A text."}
_ANY = {"type": "object", "description": "Details.", "properties": {"deep": {"type": "boolean"}}}

# Calls that show where the regions are: names, keys and values that occur nowhere else.
PLAIN = tuple(
    Call(name, {FIRST: words[0], SECOND: words[1]}, f"idqzkwxv{i}")
    for i, (name, words) in enumerate(zip(NAMES, _WORDS, strict=True))
)
TYPED = Call(NAMES[0], {FIRST: "marble", "number": 73519, "detail": {"deep": True}})
EMPTY = Call(NAMES[2], {})

TOOLS = tuple(
    Tool(
        name,
        {
            "type": "object",
            "properties": {
                FIRST: _TEXT,
                SECOND: _TEXT,
                "number": {"type": "integer", "description": "A number."},
                "ratio": {"type": "number", "description": "A ratio."},
                "flag": {"type": "boolean", "description": "A flag."},
                "list": {
                    "type": "array",
                    "description": "Some texts.",
                    "items": {"type": "string"},
                },
                "detail": _ANY,
            },
            "required": [],
        },
    )
    for name in NAMES
)

# Calls that must come back as they are. The keys are the names of the checks.
CHECKS: dict[str, tuple[Call, ...]] = {
    "one call": PLAIN[:1],
    "two calls": PLAIN[:2],
    "no arguments": (EMPTY,),
    "nested values": (
        Call(
            NAMES[1],
            {
                **{FIRST: "slate", "number": -4, "ratio": 0.5, "flag": False},
                **{"list": ["a", "b c"], "detail": {"deep": True, "more": {"x": [1, {}]}}},
            },
        ),
    ),
    "odd texts": (
        Call(NAMES[0], {FIRST: "a <b> {c}\nd ' é 🎉 \\ [e], f=1", SECOND: 'say "x": 3'}),
        Call(NAMES[1], {FIRST: "12", SECOND: "null"}, "idqzkwxv1"),
    ),
}
ALONE = {name: calls[:1] for name, calls in CHECKS.items() if len(calls) > 1}  # if two are refused
THOUGHT = "The rock must be weighed first."
