"""A format in words, for operators: its regions, and the markers between them."""

from __future__ import annotations

from collections.abc import Sequence

from formgate.parsers.derivation.samples import Call
from formgate.parsers.derivation.writing import written_calls
from formgate.parsers.formats.calls import (
    Expected,
    JsonArguments,
    JsonCall,
    Label,
    Name,
    NumberedName,
)
from formgate.parsers.formats.format import CallPart, Format, ReasoningFormat
from formgate.parsers.formats.keywords import KeywordArguments
from formgate.parsers.formats.marked import MarkedArguments
from formgate.parsers.formats.tagged import TaggedArguments
from formgate.parsers.text.symbols import Marker, Written

_EXAMPLE = (
    Call("get_weather", {"city": "Rome", "days": 3}, "abcdefgh0"),
    Call("add", {"a": 1, "b": 2}, "abcdefgh1"),
)


def in_words(format: Format) -> dict[str, str]:
    """What is said about the format, by the name of what it is about."""
    words = {
        "marker": shown(format.marker) if format.marker else "none: calls begin the answer",
        "each call": " ".join(filter(None, map(_part, format.call))),
        "before the first call": shown(format.before),
        "between two calls": shown(format.between),
        "after a call" if format.one_per_marker else "after the last call": shown(format.after),
        "content opens with": shown(format.content_opening),
        "calls at most": str(format.max_calls or ""),
    }
    if format.marker and format.bare:
        words["marker"] += ", may be left out at the start"
    if format.one_per_marker:
        words["before the first call"] = ""
        words["before each call"] = shown((*format.marker, *format.before))
    return {name: said for name, said in words.items() if said}


def example_of(format: Format) -> str:
    """Two calls in the format, or one if it has no more."""
    return written_calls(format, _EXAMPLE[: format.max_calls or 2])


def thought_in_words(reasoning: ReasoningFormat) -> str:
    return f"{shown(reasoning.open)} THOUGHT {shown(reasoning.close)}"


def shown(parts: Sequence[Written]) -> str:
    """Literals as they are read: quoted text, and special tokens in brackets of their own."""
    return " ".join(
        f"token {part.text}" if isinstance(part, Marker) else f"{part!r}" for part in parts
    )


def _part(part: Written | CallPart) -> str:
    match part:
        case str() | Marker():
            return shown((part,))
        case Name():
            return "NAME"
        case NumberedName(prefix):
            return f"{prefix!r} NAME ':' NUMBER"
        case JsonArguments():
            return "ARGUMENTS as JSON"
        case JsonCall(key):
            return f'{{"name": NAME, "{key}": ARGUMENTS as JSON}}'
        case KeywordArguments():
            return "ARGUMENTS as Python's keyword arguments"
        case MarkedArguments(quote):
            return f"ARGUMENTS with bare keys, texts between two {shown((quote,))}"
        case Label(pattern):
            return "NUMBER" if pattern.startswith("[0-9]") else "ID"
        case TaggedArguments():
            return f"ARGUMENTS one by one ({_tags(part)})"
        case Expected(parts):
            return shown(parts)
        case _:
            return ""  # what the parser accepts and the grammar leaves out


def _tags(part: TaggedArguments) -> str:
    key = f"{shown(part.key_open)} KEY {shown(part.key_close)}"
    lead = (part.lead,) if part.lead else ()
    values = f"{shown((*part.value_open, *lead))} VALUE"
    if part.text_open is not None:
        values += f" or {shown((*part.text_open, *lead))} TEXT"
    closing = shown(part.value_close)
    if part.after_key is not None:
        closing += f" KEY {shown(part.after_key)}"
    return f"{key} {values.strip()} {closing}"
