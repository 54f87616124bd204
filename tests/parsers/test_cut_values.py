"""Calls that `max_tokens` has cut: in their names, and in values between tags."""

from __future__ import annotations

from typing import Any

import pytest

from formgate.parsers.families.registry import FORMATS
from formgate.parsers.formats.format import Tool
from formgate.parsers.stream import OutputParser


@pytest.mark.parametrize(
    ("schema", "text", "told"),
    [
        ({"type": "string"}, "Paris", '"Paris'),
        ({"type": "string"}, "Paris\n</param", '"Paris'),
        ({"enum": ["Paris", "Rome"]}, "Par", '"Par'),
        ({"type": ["string", "null"]}, "nul", "nul"),
        ({"type": ["string", "null"]}, "nulls", '"nulls'),
        ({"type": "boolean"}, "tru", "tru"),
        ({"type": "integer"}, "12", "12"),
        ({"type": "array"}, "[1, [2", "[1, [2"),
        ({"type": "string", "pattern": "a+"}, '"aa', '"aa'),
    ],
)
def test_what_there_is_of_a_tagged_value_does_not_look_whole(
    schema: dict[str, Any], text: str, told: str, streams: Any
) -> None:
    tool = Tool("f", {"type": "object", "properties": {"a": schema}})
    special_ids = {"<tool_call>": 300, "</tool_call>": 301}
    parser = OutputParser(
        FORMATS["qwen3_coder"],
        None,
        tools_enabled=True,
        reasoning_state="none",
        special_ids=special_ids,
        tools=[tool],
    )
    written = f"<tool_call>\n<function=f>\n<parameter=a>\n{text}"
    answer = streams.fold(parser, [streams.pieces_of(written, special_ids)], cut=True)
    assert answer.calls == [("f", f'{{"a": {told}')]
    assert not answer.content


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen3_coder", "<tool_call>"),
        ("qwen3_coder", "<tool_call>\n<function=f"),
        ("hermes", '<tool_call>\n{"name": "f'),
        ("mistral", '[TOOL_CALLS] [{"na'),
        ("mistral_v11", "[TOOL_CALLS]f"),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_a_call_whose_name_is_not_whole_is_neither_call_nor_content(
    name: str, text: str, special: bool, streams: Any
) -> None:
    markers = sorted(marker.text for marker in FORMATS[name].markers())
    special_ids = {marker: 300 + i for i, marker in enumerate(markers)} if special else {}
    parser = OutputParser(
        FORMATS[name], None, tools_enabled=True, reasoning_state="none", special_ids=special_ids
    )
    pieces = streams.pieces_of(f"I look. {text}", special_ids)
    answer = streams.fold(parser, [pieces], cut=True)
    assert not answer.calls
    assert answer.content.strip() == "I look."
