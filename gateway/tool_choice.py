"""What a request's tools and `tool_choice` come down to: which tools may be called, whether one
must be, and what arguments each takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.chat import (
    AllowedToolsChoice,
    ChatCompletionRequest,
    Function,
    NamedTool,
)

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


@dataclass(frozen=True)
class CallableTool:
    name: str
    schema: Mapping[str, Any]  # of the arguments, always an object
    param: str  # the request's field that the schema came in


@dataclass(frozen=True)
class ToolUse:
    """`mode` "none" means that no call can come out. A named choice is a required call of one
    tool, exactly once, after which OpenAI ends the answer with `stop`."""

    mode: Literal["none", "auto", "required"]
    tools: tuple[CallableTool, ...] = ()
    parallel: bool = True
    named: bool = False


NO_TOOLS = ToolUse("none")


def tool_use(request: ChatCompletionRequest, *, auto_tool_choice: bool) -> ToolUse:
    """Raises ApiError 400 for parameters that are no object."""
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return NO_TOOLS
    if choice is None and not auto_tool_choice:
        return NO_TOOLS
    tools = tuple(
        CallableTool(
            name=tool.function.name,
            schema=_arguments_schema(tool.function, f"tools[{i}].function.parameters"),
            param=f"tools[{i}].function.parameters",
        )
        for i, tool in enumerate(request.tools)
    )
    parallel = request.parallel_tool_calls is not False
    if isinstance(choice, NamedTool):
        wanted = tuple(tool for tool in tools if tool.name == choice.function.name)
        return ToolUse("required", wanted, parallel=False, named=True)
    if isinstance(choice, AllowedToolsChoice):
        names = {tool.function.name for tool in choice.allowed_tools.tools}
        wanted = tuple(tool for tool in tools if tool.name in names)
        return ToolUse(choice.allowed_tools.mode, wanted, parallel)
    return ToolUse("required" if choice == "required" else "auto", tools, parallel)


def _arguments_schema(function: Function, param: str) -> Mapping[str, Any]:
    """A function takes the arguments that it names and no others, unless its schema says more.
    This allows less than the schema does, never more, and keeps a model from inventing some."""
    parameters = function.parameters
    if parameters is None or parameters is True or parameters == {}:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict):
        raise bad_request(f"'{param}' allows no arguments at all.", param, "invalid_schema")
    schema: dict[str, Any] = dict(parameters)
    if schema.setdefault("type", "object") != "object":
        raise bad_request(
            f"'{param}.type' must be \"object\": arguments have names.",
            f"{param}#/type",
            "invalid_schema",
        )
    if "properties" in schema and not _COMBINING & schema.keys():
        schema["additionalProperties"] = False
    return schema
