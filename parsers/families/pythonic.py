"""Calls as Python writes them: `[f(a='x', b=1), g()]` (Llama 3.2 small, Llama 4)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from formgate.parsers.formats.calls import Name
from formgate.parsers.formats.format import Format, SpecialIds, Tool
from formgate.parsers.formats.parameters import Parameter, branches, is_text, parameters_of
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.symbols import Marker
from formgate.parsers.text.transcode import stream_literal
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

# A single-quoted string without escapes: what these models like to write.
_QUOTED = r"'[^'\\\x00-\x1f]*'"


@dataclass(frozen=True)
class KeywordArguments:
    """`a='x', b=1`, read into a JSON object. Values are JSON where Python reads them alike, so
    that their schemas are enforced in full."""

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        parameters = parameters_of(tool, r"[A-Za-z_][A-Za-z0-9_]*")
        sure = next((i for i, each in enumerate(parameters) if each.required), None)
        if sure is None:
            return nodes.optional(_some(parameters)) if parameters else nodes.EMPTY
        # Around the first that has to come, every other one brings its own comma.
        return nodes.seq(
            [
                *map(_before_comma, parameters[:sure]),
                _argument(parameters[sure]),
                *map(_after_comma, parameters[sure + 1 :]),
            ]
        )

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
    value = parameter.held or _value(parameter.schema, parameter.pointer)
    return nodes.seq([nodes.text(f"{parameter.name}="), value])


def _some(parameters: Sequence[Parameter]) -> Node:
    """At least one of these, none of which has to come. Halved, so that a parameter is written a
    few times and not once for each of the others."""
    if len(parameters) == 1:
        return _argument(parameters[0])
    half = len(parameters) // 2
    first, second = parameters[:half], parameters[half:]
    return nodes.choice([nodes.seq([_some(first), *map(_after_comma, second)]), _some(second)])


def _before_comma(parameter: Parameter) -> Node:
    return nodes.optional(nodes.seq([_argument(parameter), nodes.text(", ")]))


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
