"""Writes calls in a format: what the grammar lets through, as one text. It shows whether a format
writes what a template writes, and what a call of it looks like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from formgate.parsers.derivation.samples import Call
from formgate.parsers.formats.calls import JsonArguments, JsonCall, Label, Name, NumberedName
from formgate.parsers.formats.format import CallPart, Format
from formgate.parsers.formats.keywords import KeywordArguments
from formgate.parsers.formats.tagged import TaggedArguments
from formgate.parsers.text.symbols import Marker, Written, text_of


def written_calls(format: Format, calls: Sequence[Call]) -> str:
    """The calls as text, special tokens included. A marker that may be left out is left out."""
    before, after, between = map(text_of, (format.before, format.after, format.between))
    marker = "" if format.bare else text_of(format.marker)
    each = [_call(format, call, number) for number, call in enumerate(calls)]
    if format.one_per_marker:
        return between.join(f"{marker}{before}{call}{after}" for call in each)
    return f"{marker}{before}{between.join(each)}{after}"


def _call(format: Format, call: Call, number: int) -> str:
    return "".join(_part(part, call, number) for part in format.call)


def _part(part: Written | CallPart, call: Call, number: int) -> str:
    match part:
        case Marker(text):
            return text
        case str():
            return part
        case Name():
            return call.name
        case JsonArguments():
            return _json(call.arguments)
        case JsonCall(key):
            return f'{{"name": {_json(call.name)}, "{key}": {_json(call.arguments)}}}'
        case NumberedName(prefix):
            return f"{prefix}{call.name}:{number}"
        case KeywordArguments():
            return ", ".join(f"{key}={value!r}" for key, value in call.arguments.items())
        case TaggedArguments():
            return "".join(_tagged(part, key, value) for key, value in call.arguments.items())
        case Label(pattern):
            return str(number) if pattern.startswith("[0-9]") else call.id
        case _:
            return ""  # what the grammar leaves out, or the families' own


def _tagged(part: TaggedArguments, key: str, value: Any) -> str:
    text = isinstance(value, str)
    opening = part.text_open if text and part.text_open is not None else part.value_open
    return "".join(
        [
            text_of((*part.key_open, key, *part.key_close, *opening, part.lead)),
            value if text else _json(value),
            text_of((part.trail, *part.closing(key), part.between)),
        ]
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
