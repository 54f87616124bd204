"""Translates the tools of a Responses request to those of its chat request: one flat list of names,
and only the tools that the client itself runs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

from formgate.gateway.apis.chat_translation import Places, required
from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.responses import (
    NamespacedTool,
    ResponseTool,
    ResponseToolChoice,
    ToolReference,
)

logger = logging.getLogger(__name__)

MAX_NAME_CHARS = 128  # of a tool in a chat request
_CLIENT_TOOLS = frozenset({"function", "custom"})

Name = tuple[str | None, str]  # a namespace, and the name in it


class ResponseTools:
    """Leaves out the tools that OpenAI's own servers run (`web_search`, `mcp`, ...): clients offer
    them to every server, and work without.
    """

    def __init__(self, tools: Sequence[ResponseTool], places: Places) -> None:
        """Notes the tools in `places`."""
        self.definitions: list[dict[str, Any]] = []
        self._places = places
        self._chat_names: dict[Name, str] = {}
        self._names: dict[str, Name] = {}
        hosted: list[str] = []
        for i, tool in enumerate(tools):
            at = f"tools[{i}]"
            if tool.type == "namespace":
                namespace = required(tool.name, f"{at}.name")
                for j, inner in enumerate(required(tool.tools, f"{at}.tools")):
                    if inner.type in _CLIENT_TOOLS:
                        self._add(inner, f"{at}.tools[{j}]", namespace)
                    else:
                        hosted.append(inner.type)
            elif tool.type in _CLIENT_TOOLS:
                self._add(tool, at, None)
            else:
                hosted.append(tool.type)
        if hosted:
            kinds = ", ".join(sorted({kind[:40] for kind in hosted}))
            logger.info("Tools that this server does not run are left out: %r", kinds)

    def chat_name(self, namespace: str | None, name: str) -> str:
        """The name in the chat request, also of a tool that is no longer offered."""
        known = self._chat_names.get((namespace, name))
        return known or (name if namespace is None else _joined(namespace, name))

    def name(self, chat_name: str) -> Name:
        return self._names.get(chat_name, (None, chat_name))

    def choice(self, choice: str | ResponseToolChoice | None) -> object:
        """The chat request's `tool_choice`. Raises ApiError 400 for a tool that is left out."""
        if choice is None or isinstance(choice, str):
            # Clients send a choice with no tools, as OpenAI's own endpoint allows.
            return None if not self.definitions and choice in ("none", "auto") else choice
        if choice.type in _CLIENT_TOOLS:
            return self._reference(choice, "tool_choice", "tool_choice")
        if choice.type == "allowed_tools":
            tools: list[dict[str, Any]] = []
            for i, tool in enumerate(required(choice.tools, "tool_choice.tools")):
                if tool.type in _CLIENT_TOOLS:
                    chat_place = f"tool_choice.allowed_tools.tools[{len(tools)}]"
                    tools.append(self._reference(tool, f"tool_choice.tools[{i}]", chat_place))
            mode = required(choice.mode, "tool_choice.mode")
            if not tools and mode == "auto":
                return "none" if self.definitions else None
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
        raise bad_request(
            f"A tool choice of type '{choice.type[:40]}' is not supported: this server does not "
            "run that tool.",
            "tool_choice.type",
            "unsupported_parameter",
        )

    def _reference(
        self, choice: ResponseToolChoice | ToolReference, at: str, chat_place: str
    ) -> dict[str, Any]:
        self._places.note(f"{chat_place}.{choice.type}", at)
        name = required(choice.name, f"{at}.name")
        return {"type": choice.type, choice.type: {"name": self.chat_name(choice.namespace, name)}}

    def _add(self, tool: NamespacedTool, at: str, namespace: str | None) -> None:
        own = required(tool.name, f"{at}.name")
        name: Name = (namespace, own)
        if name in self._chat_names:
            raise bad_request(f"Two tools are named '{own[:128]}'.", f"{at}.name")
        chat_name = own if namespace is None else _joined(namespace, own)
        if chat_name in self._names:
            chat_name = _shortened(f"{chat_name}_{namespace}", own)
        self._chat_names[name] = chat_name
        self._names[chat_name] = name
        fields: dict[str, Any] = {"name": chat_name, "description": tool.description}
        if tool.type == "function":
            fields |= {"parameters": tool.parameters, "strict": tool.strict}
        elif tool.format is not None:
            fields["format"] = _input_format(tool, f"{at}.format")
        given = {key: value for key, value in fields.items() if value is not None}
        chat_place = f"tools[{len(self.definitions)}]"
        self._places.note(chat_place, at)
        self._places.note(f"{chat_place}.{tool.type}", at)
        self._places.note(f"{chat_place}.{tool.type}.format.grammar", f"{at}.format")
        self.definitions.append({"type": tool.type, tool.type: given})


def _input_format(tool: NamespacedTool, at: str) -> dict[str, Any]:
    assert tool.format is not None
    if tool.format.type == "text":
        return {"type": "text"}
    grammar = {
        "syntax": required(tool.format.syntax, f"{at}.syntax"),
        "definition": required(tool.format.definition, f"{at}.definition"),
    }
    return {"type": "grammar", "grammar": grammar}


def _joined(namespace: str, name: str) -> str:
    joined = namespace + name if namespace.endswith("__") else f"{namespace}__{name}"
    return joined if len(joined) <= MAX_NAME_CHARS else _shortened(joined, name)


def _shortened(joined: str, name: str) -> str:
    """A unique name that ends with `name`."""
    digest = hashlib.sha256(joined.encode()).hexdigest()[:8]
    return f"{digest}__{name}"[:MAX_NAME_CHARS]
