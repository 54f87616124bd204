"""Values between tags that `max_tokens` has cut: there is no JSON yet to pass on as it is."""

from __future__ import annotations

from typing import Any

import pytest

from formgate.parsers.formats import Tool
from formgate.parsers.registry import FORMATS
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
