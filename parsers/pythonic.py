"""Calls as Python writes them: `[f(a='x', b=1), g()]` (Llama 3.2 small, Llama 4)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from formgate.parsers import nodes
from formgate.parsers.calls import Name
from formgate.parsers.formats import Format, SpecialIds, Tool
from formgate.parsers.nodes import Node
from formgate.parsers.parameters import Parameter, branches, is_text, parameters_of
from formgate.parsers.reader import Reader, Steps
from formgate.parsers.symbols import Marker
from formgate.parsers.transcode import stream_literal

# A single-quoted string without escapes: what these models like to write.
_QUOTED = r"'[^'\\\x00-\x1f]*'"


@dataclass(frozen=True)
class KeywordArguments:
    """`a='x', b=1`, read into a JSON object. Values are JSON where Python reads them alike, so
    that their schemas are enforced in full."""

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        parameters = parameters_of(tool, r"[A-Za-z_][A-Za-z0-9_]*")
        ways: list[Node] = []
        # By which parameter comes first: then every later one brings its own comma.
        for i, first in enumerate(parameters):
            rest = [_after_comma(parameter) for parameter in parameters[i + 1 :]]
            ways.append(nodes.seq([_argument(first), *rest]))
            if first.required:
                return nodes.choice(ways)
        return nodes.choice([*ways, nodes.EMPTY])

    def read(self, reader: Reader) -> Steps[bool]:
        reader.arguments("{")
        separator = ""
        while True:
            yield from reader.skip_whitespace()
            if (yield from reader.peek()) == ")":
                reader.arguments("}")
                reader.commit()
                return True
            name = yield from reader.name()
            yield from reader.skip_whitespace()
            if not name or not (yield from reader.accept("=")):
                return False
            reader.arguments(f"{separator}{json.dumps(name)}: ")
            reader.commit()
            if not (yield from stream_literal(reader)):
                return False
            separator = ", "
            yield from reader.skip_whitespace()
            if not (yield from reader.accept(",")) and (yield from reader.peek()) != ")":
                return False


def _argument(parameter: Parameter) -> Node:
    return nodes.seq(
        [nodes.text(f"{parameter.name}="), _value(parameter.schema, parameter.pointer)]
    )


def _after_comma(parameter: Parameter) -> Node:
    node = nodes.seq([nodes.text(", "), _argument(parameter)])
    return node if parameter.required else nodes.optional(node)


def _value(schema: Any, pointer: str) -> Node:
    ways = branches(schema)
    if len(ways) > 1:
        return nodes.choice([_value(way, pointer) for way in ways])
    if is_text(schema):
        return nodes.choice([nodes.json_value(schema, pointer=pointer), nodes.regex(_QUOTED)])
    if isinstance(schema, dict) and ("enum" in schema or "const" in schema):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not schema.keys() & {"$ref", "anyOf", "allOf", "oneOf", "not", "pattern"}:
            return nodes.choice([nodes.text(way) for value in values for way in _spellings(value)])
    if isinstance(schema, dict) and schema.keys() == {"type"} | (
        schema.keys() & {"description", "title", "default"}
    ):
        if schema["type"] == "boolean":
            return nodes.choice([nodes.text("True"), nodes.text("False")])
        if schema["type"] == "null":
            return nodes.text("None")
    return nodes.json_value(schema, pointer=pointer)


def _spellings(value: Any) -> list[str]:
    if value is None or isinstance(value, bool):
        return [repr(value)]
    spellings = [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, str) and re.fullmatch(_QUOTED, f"'{value}'"):
        spellings.append(f"'{value}'")
    return spellings


PYTHONIC = Format(
    name="pythonic",
    marker=(Marker("<|python_start|>"),),
    before=("[",),
    call=(Name(then="("), "(", KeywordArguments(), ")"),
    between=(", ",),
    after=("]",),
    bare=True,
    bare_starts=(("[", "{name}("),),
    silent=((Marker("<|python_end|>"),),),
)
