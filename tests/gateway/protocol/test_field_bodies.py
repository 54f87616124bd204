"""Bodies as they come from the field: halves of characters, bytes that are no text, and pictures
for a model that reads text.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from formgate.gateway.apis.anthropic_request import chat_request_of
from formgate.gateway.errors import ApiError
from formgate.gateway.model.prompts import message_text
from formgate.gateway.model.unseen_parts import unseen_part
from formgate.gateway.protocol.anthropic import MessagesRequest
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_body, parse_object
from formgate.gateway.protocol.rules import check_chat
from formgate.gateway.protocol.surrogates import without_lone_surrogates

USER = {"role": "user", "content": "Go on."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def test_half_characters_are_replaced_wherever_they_are() -> None:
    body = rb"""{"messages": [{"role": "user", "content": "a\ud83d\n\ude00 \ud83d\ude00",
        "n\ud800": 1}], "stop": ["\udfff"], "tools": [{"type": "function", "function":
        {"name": "f", "parameters": {"type": "object", "properties":
        {"\uD83D": {"enum": ["\ud83dx", "\\ud83d"]}}}}}]}"""
    request = parse_body(ChatCompletionRequest, body)
    assert request.messages[0].content == "a\ufffd\n\ufffd \U0001f600"
    assert request.messages[0].model_extra == {"n\ufffd": 1}
    assert request.stop == ["\ufffd"]
    assert request.tools is not None
    parameters: Any = request.tools[0].function.parameters
    assert parameters["properties"] == {"\ufffd": {"enum": ["\ufffdx", "\\ud83d"]}}
    assert parse_body(ChatCompletionRequest, body.decode()) == request


def test_any_text_keeps_all_its_whole_characters() -> None:
    rng = random.Random(1)
    pieces = ["\ud83d", "\ude00", "\U0001f600", "\\", "u", "ud83d", '"', "\n", "\ufffd", "x"]
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randrange(9)))
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        read = json.loads(without_lone_surrogates(json.dumps(text).encode()))
        # One U+FFFD for each half, which a decoder of UTF-16 may see as one with its neighbour.
        assert not any("\ud800" <= char <= "\udfff" for char in read)
        assert read.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_a_long_run_of_backslashes_is_read_once() -> None:
    body = b'{"x": "' + b"\\" * 400_000 + b'\\ud83d"}'
    assert without_lone_surrogates(body) == body.replace(b"\\ud83d", b"\\ufffd")
    assert without_lone_surrogates(body[:7] + body[8:]) == body[:7] + body[8:]


@pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0\xbd", b"\xc3", b"\xf8\x88\x80\x80\x80"])
def test_bytes_that_are_no_text_are_a_400(wrong: bytes) -> None:
    body = b'{"messages": [{"role": "user", "content": "a' + wrong + b'"}]}'
    with pytest.raises(ApiError) as refused:
        parse_body(ChatCompletionRequest, body)
    assert (refused.value.status, refused.value.param) == (400, "content")
    assert "UTF-8" in refused.value.message


def chat(*messages: dict[str, Any]) -> ChatCompletionRequest:
    request = parse_object(ChatCompletionRequest, {"messages": list(messages)})
    check_chat(request, max_logprobs=20)
    return request


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (PICTURE, "[image]"),
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "[audio]"),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": "x"}}, "[file: a.pdf]"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "[video]"),
        ({"type": "something_new"}, "[something_new]"),
    ],
)
def test_what_a_model_cannot_see_is_a_line_in_its_history(part: dict[str, Any], line: str) -> None:
    seen = {"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}
    answer = {"role": "assistant", "content": "I see."}
    result = {"role": "tool", "tool_call_id": "c", "content": [part]}
    request = chat(seen, answer, result)
    assert message_text(request.messages[0]) == f"Look:\n{line}"
    assert message_text(request.messages[2]) == line
    with pytest.raises(ApiError) as refused:
        chat(USER, answer, seen)
    assert refused.value.param == "messages[2].content[1].type"


def test_a_name_stays_in_its_line() -> None:
    assert unseen_part("document", {"title": "a\nb"}) == "[document: a b]"
    assert len(unseen_part("document", {"title": "x" * 1000})) < 130


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
BLOCKS = [
    (IMAGE, "[image]"),
    (
        {"type": "document", "title": "T", "source": {"type": "base64", "data": "x"}},
        "[document: T]",
    ),
    ({"type": "document", "source": {"type": "text", "data": "It is."}}, "It is."),
    (
        {
            "type": "search_result",
            "source": "https://x",
            "title": "T",
            "content": [{"type": "text", "text": "Found."}],
        },
        "Found.",
    ),
    ({"type": "tool_reference", "tool_name": "Read"}, "[tool_reference: Read]"),
]


@pytest.mark.parametrize(("block", "line"), BLOCKS)
def test_blocks_of_anthropic_are_lines_everywhere(block: dict[str, Any], line: str) -> None:
    use = {"type": "tool_use", "id": "t", "name": "Read", "input": {}}
    request = parse_object(
        MessagesRequest,
        {
            "max_tokens": 9,
            "system": [{"type": "text", "text": "S"}, block],
            "messages": [
                {"role": "user", "content": [block]},
                {"role": "assistant", "content": [block, use]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t", "content": [block]},
                        block,
                    ],
                },
            ],
        },
    )
    messages = chat_request_of(request)[0].messages
    assert [message_text(message) for message in messages] == [f"S\n{line}", *[line] * 4]
