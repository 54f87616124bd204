"""Arguments in Python syntax: the `a='x', b=1` of `f(a='x', b=1)`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from formgate.parsers.formats.format import SpecialIds, Tool
from formgate.parsers.formats.parameters import Parameter, branches, is_text, parameters_of
from formgate.parsers.formats.separated import separated
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.transcode import stream_literal
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

# A single-quoted string without escapes, which these models prefer.
_QUOTED = r"'[^'\\\x00-\x1f]*'"


@dataclass(frozen=True)
class KeywordArguments:
    """`a='x', b=1`, parsed into a JSON object. Values are JSON if Python has the same syntax, so
    that their schemas are fully enforced.
    """

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        parameters = parameters_of(tool, r"[A-Za-z_][A-Za-z0-9_]*")
        return separated([(_argument(each), each.required) for each in parameters], ", ")

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
    value = parameter.value_node or _value(parameter.schema, parameter.pointer)
    return nodes.seq([nodes.text(f"{parameter.name}="), value])


def _value(schema: Any, pointer: str) -> Node:
    alternatives = branches(schema)
    if len(alternatives) > 1:
        return nodes.choice([_value(each, pointer) for each in alternatives])
    if is_text(schema):
        return nodes.choice([nodes.json_value(schema, pointer=pointer), nodes.regex(_QUOTED)])
    if isinstance(schema, dict) and ("enum" in schema or "const" in schema):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not schema.keys() & {"$ref", "anyOf", "allOf", "oneOf", "not", "pattern"}:
            return nodes.choice(
                [nodes.text(text) for value in values for text in _spellings(value)]
            )
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
