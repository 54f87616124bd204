"""Open issues of other servers that show in whole and streamed answers, by their numbers, as tests
of ours; and reasoning markers that somebody typed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.errors import ApiError
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object
from formgate.parsers.families.registry import FORMATS, REASONING

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
LIST = {"type": "function", "function": {"name": "getWorkspaceFileList", "parameters": PATH}}
TREE = {"type": "function", "function": {"name": "getWorkspaceDirectoryStructure"}}
TOOLS = [TREE, LIST]
# The distills' templates open the reasoning, whatever the client asks.
R1 = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
R1 += "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
BARE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
USER = "What is the weather in Paris?"

Ask = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def ask(profile: ModelProfile, local_compiling: Any, metrics: Metrics, replay: Any) -> Ask:
    """The choice of an answer, whole and folded from its stream, where the model says `text`."""

    def asked(
        text: str,
        *,
        user: Any = USER,
        template: str | None = None,
        think_tokens: bool = True,
        format: str = "mistral",
        burst: int = 1,
        **fields: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        tokenizer = profile.tokenizer
        special = {
            name: i
            for name, i in tokenizer.special_ids.items()
            if think_tokens or "think" not in name
        }
        changes: dict[str, Any] = {
            "tokenizer": replace(
                tokenizer,
                special_ids=special,
                special_tokens={
                    name: token
                    for name, token in tokenizer.special_tokens.items()
                    if name in special
                },
            ),
            "tool_format": FORMATS[format],
        }
        if template is not None:
            changes["chat_template"] = ChatTemplate(template, tokenizer.named_tokens)
            changes["reasoning_format"] = REASONING["deepseek_r1"]
        model = replace(profile, **changes)
        service = ChatService(
            model, replay(text, burst=burst), AnswerPlanner(model, local_compiling, metrics)
        )
        body = {"messages": [{"role": "user", "content": user}], **fields}
        whole = asyncio.run(service.complete(parse_object(ChatCompletionRequest, body)))
        return json.loads(json.dumps(whole))["choices"][0], streamed(service, body)

    return asked


def streamed(service: ChatService, body: dict[str, Any]) -> dict[str, Any]:
    async def collect() -> list[Any]:
        request = parse_object(ChatCompletionRequest, {**body, "stream": True})
        async with aclosing(service.stream(request)) as steps:
            return [chunk for chunks in [c async for c in steps] for chunk in chunks]

    folded: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
    for chunk in asyncio.run(collect()):
        for choice in chunk["choices"]:
            delta = choice["delta"]
            folded["content"] += delta.get("content") or ""
            folded["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    folded["calls"].append(["", ""])
                function = call["function"]
                folded["calls"][call["index"]][0] += function.get("name") or ""
                folded["calls"][call["index"]][1] += function.get("arguments") or ""
            folded["finish_reason"] = choice["finish_reason"] or folded.get("finish_reason")
    return folded


def as_folded(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning_content": message["reasoning_content"] or "",
        "calls": [
            [call["function"]["name"], call["function"]["arguments"]]
            for call in message.get("tool_calls", ())
        ],
        "finish_reason": choice["finish_reason"],
    }


# vllm 11392: Hermes calls are streamed otherwise than they are told at once.
@pytest.mark.parametrize("burst", [1, 2, 7, 1000])
@pytest.mark.parametrize("prose", ["", "I will look.\n"])
def test_hermes_calls_stream_as_they_are_told_at_once(ask: Ask, prose: str, burst: int) -> None:
    calls = [
        '{"name": "getWorkspaceDirectoryStructure", "arguments": {}}',
        '{"name": "getWorkspaceFileList", "arguments": {"path": "src/\\"a\\"/{b}"}}',
    ]
    text = prose + "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
    whole, stream = ask(text, format="hermes", tools=TOOLS, burst=burst)
    assert stream == as_folded(whole)
    assert stream["calls"] == [
        ["getWorkspaceDirectoryStructure", "{}"],
        ["getWorkspaceFileList", '{"path": "src/\\"a\\"/{b}"}'],
    ]
    assert (stream["content"], stream["finish_reason"]) == (prose.strip(), "tool_calls")


CALL = '{"name": "getWorkspaceFileList", "arguments": {"path": "a, {b}"}}'
CALLS = {
    "hermes": f"<tool_call>\n{CALL}\n</tool_call>",
    "mistral": f"[TOOL_CALLS][{CALL}]",
    "llama3_json": CALL.replace("arguments", "parameters"),
    "pythonic": "[getWorkspaceFileList(path='a, {b}')]",
    "qwen3_coder": (
        "<tool_call>\n<function=getWorkspaceFileList>\n<parameter=path>\na, {b}\n</parameter>\n"
        "</function>\n</tool_call>"
    ),
    "deepseek_v31": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>getWorkspaceFileList<｜tool▁sep｜>"
        '{"path": "a, {b}"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
}


# sglang 32167: a call that is completed in the last delta loses its arguments.
@pytest.mark.parametrize("format", CALLS)
def test_a_call_may_be_completed_by_the_last_delta(ask: Ask, format: str) -> None:
    for burst in (*range(1, 30, 4), 1000):
        whole, stream = ask(CALLS[format], format=format, tools=TOOLS, burst=burst)
        assert stream == as_folded(whole)
        ((name, arguments),) = stream["calls"]
        assert (name, json.loads(arguments)) == ("getWorkspaceFileList", {"path": "a, {b}"})
        assert (stream["content"], stream["finish_reason"]) == ("", "tool_calls")


# vllm 12999: reasoning_content is always None, because the template has come to write <think>.
@pytest.mark.parametrize("think_tokens", [True, False])
def test_reasoning_is_found_where_the_template_opens_it(ask: Ask, think_tokens: bool) -> None:
    text = "Alright, the user just said hello.\n</think>\n\nHello!"
    whole, stream = ask(text, template=R1, think_tokens=think_tokens)
    assert stream == as_folded(whole)
    assert stream["reasoning_content"] == "Alright, the user just said hello."
    assert stream["content"] == "Hello!"


# vllm 53363: finish_reason says that calls were made, and there is none.
@pytest.mark.parametrize(
    "fields", [{"tool_choice": "required"}, {"tool_choice": "auto"}, {"max_tokens": 4}]
)
def test_the_finish_reason_is_true(ask: Ask, fields: dict[str, Any]) -> None:
    prose = "It is sunny in Paris, and 22 degrees."  # of an engine that enforces nothing
    whole, stream = ask(prose, tools=TOOLS, **fields)
    assert stream == as_folded(whole)
    assert stream["calls"] == []
    assert "tool_calls" not in whole["message"]
    assert stream["finish_reason"] == ("length" if "max_tokens" in fields else "stop")


# vllm 16887: tool_choice "any", as Mistral's own API has it, is an error of the server's.
def test_an_unknown_tool_choice_is_the_client_s_error() -> None:
    body = {"messages": [{"role": "user", "content": USER}], "tools": TOOLS, "tool_choice": "any"}
    with pytest.raises(ApiError) as refused:
        parse_object(ChatCompletionRequest, body)
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith("tool_choice")


@pytest.mark.parametrize("think_tokens", [True, False])
@pytest.mark.parametrize(
    "user", ["What is <think>", "What is <think>\n", "</think>", "a </think> b"]
)
@pytest.mark.parametrize("parts", [True, False])
def test_a_typed_marker_that_ends_the_prompt_opens_nothing(
    ask: Ask, user: str, think_tokens: bool, parts: bool
) -> None:
    """Such a template puts nothing behind the user's words."""
    said = [{"type": "text", "text": user}] if parts else user
    answer = "The tag <think> opens a thought."
    whole, stream = ask(answer, user=said, template=BARE, think_tokens=think_tokens)
    assert stream == as_folded(whole)
    assert stream["content"] == answer
    assert stream["reasoning_content"] == ""


@pytest.mark.parametrize("think_tokens", [True, False])
def test_a_typed_marker_does_not_hide_the_template_s_own(ask: Ask, think_tokens: bool) -> None:
    text = "They typed <think>.\n</think>\n\nA tag."
    for user in ("What is <think>", "</think>"):
        _, stream = ask(text, user=user, template=R1, think_tokens=think_tokens)
        assert stream["reasoning_content"].startswith("They typed")
        assert stream["content"] == "A tag."


def test_a_thought_of_the_assistant_s_own_message_is_continued(ask: Ask) -> None:
    messages = [
        {"role": "user", "content": USER},
        {"role": "assistant", "content": "<think>"},
    ]
    for think_tokens in (True, False):
        _, stream = ask(
            "Hm.</think>Sunny.",
            template=BARE,
            think_tokens=think_tokens,
            messages=messages,
            continue_final_message=True,
        )
        assert (stream["reasoning_content"], stream["content"]) == ("Hm.", "Sunny.")


def test_a_thought_that_its_limit_cut_is_over_with_its_turn(ask: Ask) -> None:
    messages = [
        {"role": "user", "content": USER},
        {"role": "assistant", "content": "<think>\nIt may rain or"},
        {"role": "user", "content": "Go on."},
    ]
    _, stream = ask("It is sunny.", messages=messages)
    assert (stream["reasoning_content"], stream["content"]) == ("", "It is sunny.")
