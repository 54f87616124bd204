"""Calls for models that were not trained for any: a format of our own, and the text that explains
it in the system turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from formgate.parsers.formats.calls import JsonCall
from formgate.parsers.formats.format import Format

GENERIC = Format(
    name="generic",
    marker=("<tool_call>",),
    before=("\n",),
    call=(JsonCall(),),
    after=("\n</tool_call>",),
    between=("\n",),
    one_per_marker=True,
)

_LIST = """\
You may call one or more of these functions to answer. Each is described by a JSON object on a \
line of its own:
<tools>
{tools}
</tools>"""
_EXPLANATION = """
To call a function, write nothing but the call, in exactly this form, with arguments that fit the \
function's parameters:
<tool_call>
{"name": "function name", "arguments": {"parameter": "value"}}
</tool_call>
If no function is needed, answer in plain text and write no <tool_call>."""

_SYNTAX = """
To call functions, write nothing but the calls, in exactly this form, with arguments that fit the \
functions' parameters:
{example}
If no function is needed, answer in plain text."""


def describe_tools_in(functions: Sequence[dict[str, Any]], example: str) -> str:
    """The list of tools, and an example of a call in the model's own syntax."""
    return list_tools(functions) + _SYNTAX.replace("{example}", example)


def describe_tools(functions: Sequence[dict[str, Any]]) -> str:
    """The list of tools and the syntax of a call, for the system turn. `functions` as in OpenAI's
    `tools[].function`.
    """
    return list_tools(functions) + _EXPLANATION


def list_tools(functions: Sequence[dict[str, Any]]) -> str:
    """The list of tools only."""
    lines = [json.dumps(function, ensure_ascii=False) for function in functions]
    return _LIST.format(tools="\n".join(lines))


def describe_calls(calls: Sequence[tuple[str, str]]) -> str:
    """Past calls (name, arguments as JSON text) in the generic syntax."""
    return "\n".join(
        f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in calls
    )


def describe_result(result: str) -> str:
    """A tool's result, for a user turn of a model without a tool role."""
    return f"<tool_response>\n{result}\n</tool_response>"
