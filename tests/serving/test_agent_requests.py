"""Requests as coding agents send them: none is refused. What a server may stumble over is told
beside each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fuzz.bodies import Case
from tests.fuzz.judge import Answer, wrong

pytestmark = pytest.mark.serve

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def parameters(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXT = {"type": "string", "maxLength": 20}
EXEC = {
    "type": "function",
    "name": "exec_command",
    "description": "Runs a command.",
    "strict": False,
    "parameters": parameters(cmd=TEXT) | {"additionalProperties": False},
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {
        "type": "grammar",
        "syntax": "lark",
        "definition": 'start: "*** Delete File: " /[a-z.]{1,20}/ LF\n%import common.LF\n',
    },
}
FILES = {
    "type": "namespace",
    "name": "mcp__files",
    "description": "Files.",
    "tools": [EXEC | {"name": "list_dir", "parameters": parameters(path=TEXT)}],
}
READ = {"name": "read", "description": "Reads.", "parameters": parameters(path=TEXT)}


def codex(tools: list[Any], *history: dict[str, Any]) -> dict[str, Any]:
    def said(role: str, text: str) -> dict[str, Any]:
        return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}

    return {
        "instructions": "You are a coding agent.",
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199",
        "max_output_tokens": 200,
        "temperature": 0,
        "input": [said("developer", "Read-only."), *history, said("user", "list the files")],
        "tools": tools,
    }


def chat(messages: list[Any], *functions: dict[str, Any]) -> dict[str, Any]:
    tools = [{"type": "function", "function": function} for function in functions]
    return {"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 200}


def turn_with_a_call(name: str, arguments: dict[str, Any], result: str) -> list[Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": "abcdefgh1", "type": "function", "function": function}
    return [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": result},
        {"role": "user", "content": "Go on."},
    ]


PATCHED = [
    {
        "type": "custom_tool_call",
        "call_id": "call_2",
        "name": "apply_patch",
        "input": "*** Delete File: a.py\n",
        "status": "completed",
    },
    {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Done"},
]
PICTURE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
CACHED = {"cache_control": {"type": "ephemeral"}}
CLAUDE_CODE = {
    "max_tokens": 200,
    "system": [{"type": "text", "text": "You are a CLI agent."} | CACHED],
    "metadata": {"user_id": "user_x"},
    "tools": [{"name": "Read", "description": "Reads.", "input_schema": READ["parameters"]}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "what is in x?"} | CACHED]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "look", "signature": "EqQB"},
                {"type": "tool_use", "id": "toolu_01", "name": "Read", "input": {"path": "x"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_01",
                    "content": [
                        {"type": "text", "text": "see"},
                        {"type": "image", "source": PICTURE},
                    ],
                }
            ],
        },
    ],
}

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    # A hosted tool, which the server does not run.
    ("codex", RESPONSES, codex([EXEC, {"type": "web_search", "external_web_access": False}])),
    ("codex with a custom tool", RESPONSES, codex([EXEC, PATCH])),
    ("codex with a namespace", RESPONSES, codex([EXEC, FILES])),
    # The tool is in the history, and no longer offered.
    ("codex after a custom call", RESPONSES, codex([EXEC], *PATCHED)),
    # Half of a surrogate pair, as a cut result ends with.
    ("half a character", CHAT, chat(turn_with_a_call("read", {}, "`\ud83d New Folder`"), READ)),
    ("a picture as a result", MESSAGES, CLAUDE_CODE),
    # A template may ask for a description.
    (
        "a tool without a description",
        CHAT,
        chat(
            [{"role": "user", "content": "x"}],
            {"name": "stop", "parameters": {"type": "object", "properties": {}}},
        ),
    ),
    (
        "a history of calls",
        CHAT,
        chat(
            [
                {"role": "system", "content": "Be brief."},
                *turn_with_a_call("read", {"path": "a"}, '{"lines": 3}'),
            ],
            READ,
        ),
    ),
]


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS]
)
def test_the_request_of_an_agent_is_answered(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    case = Case("POST", path, json.dumps(body).encode())
    response = http.post(path, content=case.content, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text[:500]
    answer = Answer(response.status_code, response.headers, response.text)
    assert list(wrong(case, answer)) == []
