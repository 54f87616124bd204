"""Gemma 4: bare keys, and texts between two of one token."""

from __future__ import annotations

from formgate.parsers.formats.calls import Name
from formgate.parsers.formats.format import Format
from formgate.parsers.formats.marked import MarkedArguments
from formgate.parsers.text.symbols import Marker

GEMMA4 = Format(
    name="gemma4",
    marker=(Marker("<|tool_call>"),),
    call=("call:", Name(then="{"), "{", MarkedArguments(Marker('<|"|>')), "}"),
    after=(Marker("<tool_call|>"),),
    one_per_marker=True,
    silent=((Marker("<|tool_response>"),),),  # where the model waits for the result
)
