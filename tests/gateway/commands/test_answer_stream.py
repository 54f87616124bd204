"""A stream of chat completions, folded to an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from formgate.gateway.commands.answer_stream import Answer, Delta, StreamError, deltas


def line(delta: dict[str, Any], **more: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, **more}]})


def call(index: int, **function: str) -> dict[str, Any]:
    return {"index": index, "id": f"c{index}" if "name" in function else None, "function": function}


def test_reasoning_content_and_calls_in_pieces() -> None:
    answer = Answer()
    lines = [
        ": comment",
        line({"role": "assistant", "content": ""}),
        line({"reasoning": "hm", "reasoning_content": "hm"}),
        line({"content": "Let me "}),
        line({"content": "see."}),
        line({"tool_calls": [call(0, name="f", arguments="")]}),
        line({"tool_calls": [call(0, arguments='{"a"'), call(1, name="g", arguments="{}")]}),
        line({"tool_calls": [call(0, arguments=": 1}")]}),
        line({}, finish_reason="tool_calls"),
        'data: {"choices": [], "usage": {"completion_tokens": 9}}',
        "data: [DONE]",
    ]
    pieces = list(deltas(answer, lines))
    assert pieces[:3] == [Delta(reasoning="hm"), Delta("Let me "), Delta("see.")]
    assert [piece.calls for piece in pieces[3:]] == [(0,), (0, 1), (0,)]
    assert answer.usage == {"completion_tokens": 9}
    message = answer.message()
    assert (message["content"], message["reasoning"]) == ("Let me see.", "hm")
    assert [each["function"] for each in message["tool_calls"]] == [
        {"name": "f", "arguments": '{"a": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert [each["id"] for each in message["tool_calls"]] == ["c0", "c1"]


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ('data: {"error": {"message": "Too busy."}}', "Too busy."),
        ("data: {", "not one of chat completions"),
        ("data: 5", "not one of chat completions"),
        (": end", "cut the answer off"),
    ],
)
def test_what_ends_a_stream_early(last: str, said: str) -> None:
    answer = Answer()
    with pytest.raises(StreamError, match=said):
        list(deltas(answer, [line({"content": "half"}), last]))
    assert answer.content == "half"
