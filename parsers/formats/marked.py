"""Arguments with bare keys and with texts between two of one marker: `a:<|"|>x<|"|>,b:{c:1}`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from formgate.parsers.formats.format import SpecialIds, Tool
from formgate.parsers.formats.literals import literal, through
from formgate.parsers.formats.parameters import branches, is_text, parameters_of, text_choices
from formgate.parsers.formats.separated import separated
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.symbols import Marker
from formgate.parsers.text.transcode import stream_literal
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

_KEY = r"[A-Za-z_$][A-Za-z0-9_.$-]*"
_NOT_KEY = re.compile(r"[^A-Za-z0-9_.$\-]")
_REMARKS = {"description", "title", "default", "examples"}
_MAX_DEPTH = 16


@dataclass(frozen=True)
class MarkedArguments:
    """The arguments in the order of their names, as the family's template sorts them. A value whose
    schema has more than types, properties, items and choices of texts is written as JSON.
    """

    quote: Marker

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        written = [
            (
                nodes.seq(
                    [
                        nodes.text(f"{each.name}:"),
                        each.value_node or self._value(each.schema, each.pointer, special_ids),
                    ]
                ),
                each.required,
            )
            for each in sorted(parameters_of(tool, _KEY), key=lambda each: each.name.lower())
        ]
        return separated(written, ",")

    def read(self, reader: Reader) -> Steps[bool]:
        quote = reader.alphabet.encode_literals((self.quote,))
        reader.arguments("{")
        separator = ""
        while True:
            yield from reader.skip_whitespace()
            if (yield from reader.peek()) == "}":
                reader.arguments("}")
                reader.commit()
                return True
            key = yield from _key(reader)
            if not key or not (yield from reader.accept(":")):
                return False
            reader.arguments(f"{separator}{json.dumps(key)}: ")
            reader.commit()
            if not (yield from stream_literal(reader, quote=quote)):
                return False
            separator = ", "
            yield from reader.skip_whitespace()
            if not (yield from reader.accept(",")) and (yield from reader.peek()) != "}":
                return False

    def _value(self, schema: Any, pointer: str, special_ids: SpecialIds, depth: int = 0) -> Node:
        alternatives = branches(schema)
        if len(alternatives) > 1:
            return nodes.choice(
                [self._value(each, pointer, special_ids, depth) for each in alternatives]
            )
        if is_text(schema):
            return nodes.seq(
                [literal(self.quote, special_ids), through((self.quote,), special_ids)]
            )
        texts = text_choices(schema)
        if texts is not None and not any(self.quote.text in text for text in texts):
            quote = literal(self.quote, special_ids)
            choice = nodes.choice([nodes.text(text) for text in texts])
            return nodes.seq([quote, choice, quote])
        if depth < _MAX_DEPTH and _is_plain_object(schema):
            return self._object(schema, pointer, special_ids, depth + 1)
        if depth < _MAX_DEPTH and _is_plain_array(schema):
            item = self._value(schema["items"], f"{pointer}/items", special_ids, depth + 1)
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            items = nodes.repeat(item, least, most, nodes.text(","))
            return nodes.seq([nodes.text("["), items, nodes.text("]")])
        return nodes.json_value(schema, pointer=pointer)

    def _object(self, schema: Any, pointer: str, special_ids: SpecialIds, depth: int) -> Node:
        properties = schema["properties"]
        required = schema.get("required", [])
        members = []
        for name in sorted(properties, key=str.lower):
            inside = f"{pointer}/properties/{name}"
            value = self._value(properties[name], inside, special_ids, depth)
            members.append((nodes.seq([nodes.text(f"{name}:"), value]), name in required))
        return nodes.seq([nodes.text("{"), separated(members, ","), nodes.text("}")])


def _is_plain_object(schema: Any) -> bool:
    """True if the schema names all that its objects must have, and says no more."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return False
    known = {"type", "properties", "required", "additionalProperties"} | _REMARKS
    properties = schema.get("properties")
    return (
        not schema.keys() - known
        and isinstance(properties, dict)
        and all(re.fullmatch(_KEY, name) for name in properties)
        and set(schema.get("required", [])) <= properties.keys()
    )


def _is_plain_array(schema: Any) -> bool:
    if not isinstance(schema, dict) or schema.get("type") != "array" or "items" not in schema:
        return False
    known = {"type", "items", "minItems", "maxItems"} | _REMARKS
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    return (
        not schema.keys() - known
        and isinstance(schema["items"], dict)
        and isinstance(least, int)
        and (most is None or (isinstance(most, int) and most >= max(least, 1)))
    )


def _key(reader: Reader) -> Steps[str]:
    length = 0
    while not (found := _NOT_KEY.search(reader.text, reader.pos + length)):
        length = len(reader.text) - reader.pos
        if reader.ended:
            return ""
        yield
    key = reader.text[reader.pos : found.start()]
    reader.pos = found.start()
    return key
