"""Resolves a request's tools and `tool_choice`: the tools that may be called, whether a call is
required, and the schema of each tool's arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.chat import (
    AllowedToolsChoice,
    ChatCompletionRequest,
    Function,
    FunctionTool,
    InputGrammar,
    NamedCustomTool,
    NamedFunction,
    ToolDefinition,
)
from formgate.gateway.protocol.nullable import offering_null
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

_COMBINING = frozenset(
    [
        "$ref",
        "$dynamicRef",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "not",
        "patternProperties",
        "propertyNames",
        "additionalProperties",
        "unevaluatedProperties",
    ]
)


_SLASH = re.compile(r"(?<!\\)((?:\\\\)*)/")


@dataclass(frozen=True)
class CallableTool:
    name: str
    schema: Mapping[str, Any]  # of the arguments; its type is object
    param: str  # the request field of the schema or grammar
    is_custom: bool = False  # its only argument is a string named "input"
    held: Node | None = None  # constrains the input beyond the schema
    strict: bool = False  # refused rather than enforced in part


@dataclass(frozen=True)
class ToolUse:
    """`mode` "none": no call is possible. A named choice is exactly one required call of that tool,
    after which OpenAI ends the answer with `stop`."""

    mode: Literal["none", "auto", "required"]
    tools: tuple[CallableTool, ...] = ()
    parallel: bool = True
    named: bool = False


NO_TOOLS = ToolUse("none")


def tool_use(
    request: ChatCompletionRequest, *, auto_tool_choice: bool, strict: bool = False
) -> ToolUse:
    """`strict`: all tools are, whatever they say. Raises ApiError 400 for parameters that are not
    an object."""
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return NO_TOOLS
    if choice is None and not auto_tool_choice:
        return NO_TOOLS
    tools = tuple(
        _callable(tool, f"tools[{i}]", strict=strict) for i, tool in enumerate(request.tools)
    )
    parallel = request.parallel_tool_calls is not False
    if isinstance(choice, NamedFunction | NamedCustomTool):
        wanted = tuple(tool for tool in tools if tool.name == choice.name)
        return ToolUse("required", wanted, parallel=False, named=True)
    if isinstance(choice, AllowedToolsChoice):
        names = {tool.name for tool in choice.allowed_tools.tools}
        wanted = tuple(tool for tool in tools if tool.name in names)
        return ToolUse(choice.allowed_tools.mode, wanted, parallel)
    return ToolUse("required" if choice == "required" else "auto", tools, parallel)


def _callable(tool: ToolDefinition, at: str, *, strict: bool) -> CallableTool:
    if isinstance(tool, FunctionTool):
        param = f"{at}.function.parameters"
        strict = strict or bool(tool.function.strict)
        schema = _arguments_schema(tool.function, param)
        return CallableTool(tool.name, schema, param, strict=strict)
    grammar = tool.grammar
    text: dict[str, Any] = {"type": "string"}
    if grammar is None:
        held, param = None, f"{at}.custom"
    else:
        held = nodes.lark(_lark_of(grammar), in_json=True)
        param = f"{at}.custom.format.grammar.definition"
        # What more than a schema holds is no plain text for the families that write it in tags.
        text["minLength"] = 0
    of_text = {
        "type": "object",
        "properties": {"input": text},
        "required": ["input"],
        "additionalProperties": False,
    }
    return CallableTool(tool.name, of_text, param, is_custom=True, held=held, strict=True)


def _lark_of(grammar: InputGrammar) -> str:
    if grammar.syntax == "lark":
        return grammar.definition
    pattern = grammar.definition.removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1]
    pattern = _SLASH.sub(r"\1\\/", pattern).replace("\n", "\\n").replace("\r", "\\r")
    return f"start: /(?:{pattern})/\n"


def _arguments_schema(function: Function, param: str) -> Mapping[str, Any]:
    """The schema of a function's arguments. Unless it has a keyword of `_COMBINING`, arguments that
    it does not name are forbidden, so that the model invents none."""
    parameters = function.parameters
    if parameters is None or parameters is True or parameters == {}:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict):
        raise bad_request(f"'{param}' allows no arguments at all.", param, "invalid_schema")
    named = {key: value for key, value in parameters.items() if key != "nullable"}
    schema: dict[str, Any] = dict(offering_null(named))
    if schema.setdefault("type", "object") != "object":
        raise bad_request(
            f"'{param}.type' must be \"object\": arguments have names.",
            f"{param}#/type",
            "invalid_schema",
        )
    if "properties" in schema and not _COMBINING & schema.keys():
        schema["additionalProperties"] = False
    return schema
