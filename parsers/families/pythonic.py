"""Calls in Python syntax: `[f(a='x', b=1), g()]` (Llama 3.2 1B and 3B, Llama 4, LFM2)."""

from __future__ import annotations

from formgate.parsers.formats.calls import Name
from formgate.parsers.formats.format import Format
from formgate.parsers.formats.keywords import KeywordArguments
from formgate.parsers.text.symbols import Marker

PYTHONIC = Format(
    name="pythonic",
    marker=(Marker("<|python_start|>"),),
    before=("[",),
    call=(Name(then="("), "(", KeywordArguments(), ")"),
    between=(", ",),
    after=("]",),
    bare=True,
    bare_starts=(("[", "{name}("),),
    silent=((Marker("<|python_end|>"),),),
)

# LFM2. Its template shows past calls as the text that they were.
LFM2 = Format(
    name="lfm2",
    marker=(Marker("<|tool_call_start|>"),),
    before=("[",),
    call=(Name(then="("), "(", KeywordArguments(), ")"),
    between=(", ",),
    after=("]", Marker("<|tool_call_end|>")),
)
