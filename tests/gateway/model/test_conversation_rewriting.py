"""Conversations that a template refuses or shows in part. The templates are small, and each refuses
what those of a family of models refuse.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.conversation_rewriting import renderer_of
from formgate.gateway.model.prompts import template_message, template_tools
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object
from formgate.parsers.families.registry import FORMATS

# No system turn, no tools, and user and assistant by turns, as Gemma 2's.
STRICT = """
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Roles must alternate') }}
  {%- endif %}<{{ m.role }}>{{ m.content | trim }}
{% endfor %}
"""
# Takes every role and shows two of them.
SILENT = """
{%- for m in messages %}
  {%- if m.role in ('user', 'assistant') and m.content %}<{{ m.role }}>{{ m.content }}
{% endif %}{% endfor %}
"""
# The last system turn is the only one, and a text hides the calls beside it, as DeepSeek-R1's.
ONE_SYSTEM = """
{%- set ns = namespace(system='') %}
{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}
{%- endfor %}{{ ns.system }}
{%- for m in messages %}
  {%- if m.role == 'tool' %}<result>{{ m.content }}
  {%- elif m.role == 'assistant' and m.content is none %}
    {%- for c in m.tool_calls %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}
    {%- endfor %}
  {%- elif m.role != 'system' %}<{{ m.role }}>{{ m.content }}
  {%- endif %}
{% endfor %}
"""
# Every tool and parameter has a description, and no text is null, as gpt-oss'.
DESCRIBED = """
{%- for t in tools or [] %}{{ '# ' + t.function.name + ': ' + t.function.description }}
{% for name, p in t.function.parameters.properties.items() %}
{{- name + ': ' + p.type + ' // ' + p.description }}
{% endfor %}{% endfor %}
{%- for m in messages %}<{{ m.role }}>{% if '<x>' not in m.content %}{{ m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}
{%- endfor %}
{% endfor %}
"""
# Must have tools, and results have a call.
DEMANDING = """
{%- for t in tools %}{{ t.function.name }}
{% endfor %}
{%- for m in messages %}
  {%- if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}
    {{- raise_exception('A result needs a call') }}
  {%- endif %}<{{ m.role }}>{{ m.content or '' }}
  {%- for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}
  {%- endfor %}
{% endfor %}
"""
TEMPLATES = {
    "strict": STRICT,
    "silent": SILENT,
    "one system": ONE_SYSTEM,
    "described": DESCRIBED,
    "demanding": DEMANDING,
}


def said(role: str, text: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **fields}


def call(*ids: str, text: str | None = None) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    calls = [{"id": each, "type": "function", "function": function} for each in ids]
    return said("assistant", text, tool_calls=calls)


def result(call_id: str, text: str) -> dict[str, Any]:
    return said("tool", text, tool_call_id=call_id)


ASK = said("user", "ask1")
HISTORIES = {
    "plain": [ASK],
    "system": [said("system", "sys1"), ASK],
    "two systems": [said("system", "sys1"), said("developer", "dev1"), ASK],
    "late system": [ASK, said("assistant", "ans1"), said("system", "sys1"), said("user", "ask2")],
    "system last": [ASK, said("assistant", "ans1"), said("system", "sys1")],
    "only system": [said("system", "sys1")],
    "two users": [ASK, said("user", "ask2")],
    "two assistants": [ASK, said("assistant", "ans1"), said("assistant", "ans2")],
    "assistant first": [said("assistant", "ans1"), ASK],
    "agent": [
        said("system", "sys1"), ASK, call("a"), result("a", "res1"),
        call("b", "c"), result("b", "res2"), result("c", "res3"), said("user", "ask2"),
    ],
    "call last": [ASK, call("a"), result("a", "res1")],
    "call without result": [ASK, call("a"), said("user", "ask2")],
    "orphan": [ASK, result("a", "res1"), said("user", "ask2")],
    "orphan first": [result("a", "res1"), ASK],
    "repeated result": [ASK, call("a"), result("a", "res1"), result("a", "res2")],
    "nothing said": [ASK, said("assistant", ""), said("user", "ask2")],
}  # fmt: skip
TOOLS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "name alone": {},
    "null": {"parameters": None, "description": None, "strict": None},
    "no properties": {"parameters": {"type": "object"}},
    "empty": {"parameters": {}},
    "untyped": {"parameters": {"type": "object", "properties": {"city": {}, "any": True}}},
    "union": {"parameters": {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}},
}
WORDS = ["sys1", "dev1", "ask1", "ask2", "ans1", "ans2", "res1", "res2", "res3", "Rome"]


def rendered(template: ChatTemplate, messages: list[Any], tool: dict[str, Any] | None) -> str:
    fields: dict[str, Any] = {"messages": messages}
    if tool is not None:
        fields["tools"] = [{"type": "function", "function": {"name": "get_weather", **tool}}]
    request = parse_object(ChatCompletionRequest, fields)
    return renderer_of(template).render(
        [template_message(message, template) for message in request.messages],
        template_tools(request.tools or ()),
    )


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_refused_and_nothing_is_left_out(name: str, tool: str) -> None:
    template = ChatTemplate(TEMPLATES[name], {}, tool_format=FORMATS["generic"])
    for history, messages in HISTORIES.items():
        text = rendered(template, messages, TOOLS[tool])
        sent = json.dumps(messages)
        assert [w for w in WORDS if w in sent and w not in text] == [], (history, text)
        if TOOLS[tool] is not None:
            assert "get_weather" in text


def test_what_can_be_said_stays_as_it_is() -> None:
    template = ChatTemplate(DESCRIBED, {}, tool_format=FORMATS["generic"])
    tool = {"description": "d", "parameters": {"properties": {}}}
    assert rendered(template, [said("system", "sys1"), ASK, ASK], tool) == (
        "# get_weather: d\n<system>sys1<user>ask1<user>ask1"
    )


def test_only_what_is_refused_is_written_in_other_words() -> None:
    template = ChatTemplate(STRICT, {}, tool_format=FORMATS["generic"])
    assert rendered(template, [ASK, said("assistant", "a"), ASK], None) == (
        "<user>ask1\n<assistant>a\n<user>ask1\n"
    )
    messages = [said("system", "sys1"), ASK, call("a"), result("a", "res1"), said("user", "ask2")]
    assert rendered(template, messages, None) == (
        "<user>sys1\n\nask1\n"
        '<assistant><tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'
        "</tool_call>\n"
        "<user><tool_response>\nres1\n</tool_response>\n\nask2\n"
    )


def test_a_tool_that_is_not_shown_is_explained_where_calls_are_generic() -> None:
    explained = rendered(ChatTemplate(SILENT, {}, tool_format=FORMATS["generic"]), [ASK], {})
    listed = rendered(ChatTemplate(SILENT, {}, tool_format=FORMATS["deepseek_v31"]), [ASK], {})
    alone = rendered(ChatTemplate(SILENT, {}), [ASK], {})
    assert "get_weather" in explained
    assert "<tool_call>" in explained
    assert "get_weather" in listed
    assert "<tool_call>" not in listed
    assert alone == "<user>ask1\n"


ONE_CALL = """\
{%- for m in messages -%}
<{{ m.role }}>{{ m.content or '' }}
{%- if m.tool_calls -%}
call {{ m.tool_calls[0].function.name }} {{ m.tool_calls[0].id }}
{%- endif -%}
{%- if m.role == 'tool' %} of {{ m.tool_call_id }}{% endif -%}
{%- endfor -%}"""


def test_calls_that_a_template_shows_one_at_a_time_are_turns_of_their_own() -> None:
    """gpt-oss' template shows the first call of a turn and drops the others in silence."""
    results = [result("b", "res2"), result("a", "res1")]
    text = rendered(ChatTemplate(ONE_CALL, {}), [ASK, call("a", "b"), *results, ASK], None)
    assert text == (
        "<user>ask1<assistant>call get_weather a<tool>res1 of a"
        "<assistant>call get_weather b<tool>res2 of b<user>ask1"
    )


def test_calls_that_a_template_leaves_out_are_written_in_the_models_own_syntax() -> None:
    template = ChatTemplate(SILENT, {}, tool_format=FORMATS["lfm2"])
    text = rendered(template, [ASK, call("a"), result("a", "res1")], {})
    assert "<|tool_call_start|>[get_weather(city='Rome')]<|tool_call_end|>" in text
    assert "[function_name(parameter='value')]" in text
