"""Arguments written one by one between tags, such as `<parameter=a>`, with raw values. The tool's
schema decides how to read a value: a parameter that is any string, or one of several strings, is
text; all others are JSON. `tree` and `read` both use `_kind`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from formgate.parsers.formats.format import SpecialIds, Tool
from formgate.parsers.formats.literals import literals, through
from formgate.parsers.formats.parameters import (
    Parameter,
    branches,
    is_nullable_text,
    is_text,
    parameters_of,
    text_choices,
)
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.scanner import WHITESPACE, MarkerScanner
from formgate.parsers.text.symbols import SYMBOL_RANGE, Written
from formgate.parsers.text.transcode import json_inside, stream_literal
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

Kind = Literal["text", "nullable", "structure", "other"]
_OPENINGS = {"structure": "[{"}  # first characters of values that end by their own syntax
_TEXT = {"type": "string"}
_SYMBOL = re.compile(f"[{SYMBOL_RANGE}]")


@dataclass(frozen=True)
class TaggedArguments:
    """Each argument is `key_open KEY key_close value_open lead VALUE trail value_close between`.
    `lead` and `trail` are a newline or empty. `text_open`: stands for `value_open` before a text,
    so that the model says which values are texts. `after_key`: the key stands once more between
    `value_close` and this, as in `<city>Rome</city>`.
    """

    key_open: tuple[Written, ...]
    key_close: tuple[Written, ...]
    value_open: tuple[Written, ...] = ()
    lead: str = ""
    trail: str = ""
    value_close: tuple[Written, ...] = ()
    between: str = "\n"
    text_open: tuple[Written, ...] | None = None
    after_key: tuple[Written, ...] | None = None

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return nodes.seq(
            argument if parameter.required else nodes.optional(argument)
            for parameter in parameters_of(tool, r"[^<>\s\"]+")
            for argument in [self._argument(parameter, special_ids)]
        )

    def _argument(self, parameter: Parameter, special_ids: SpecialIds) -> Node:
        schema = parameter.schema
        closing = self.closing(parameter.name)
        close = literals((self.trail, *closing), special_ids)
        choices = text_choices(schema)
        texts = [nodes.text(text) for text in choices or ()]
        kind = _kind(schema)
        as_text = kind == "text" and parameter.value_node is None
        if parameter.value_node is not None:
            value = nodes.seq([parameter.value_node, *close])
        elif texts:
            value = nodes.seq([nodes.choice(texts), *close])
        elif kind == "text":
            value = through(closing, special_ids)
        elif kind == "nullable":
            value = nodes.seq([nodes.text("null"), *close])
            if self.text_open is None:
                value = nodes.choice([value, through(closing, special_ids)])
        else:
            value = nodes.seq([nodes.json_value(schema, pointer=parameter.pointer), *close])
        value = nodes.seq([*self._opening(special_ids, as_text=as_text), value])
        if self.text_open is not None and kind != "text" and _may_be_text(schema):
            text = through(closing, special_ids)
            value = nodes.choice(
                [value, nodes.seq([*self._opening(special_ids, as_text=True), text])]
            )
        key = literals((*self.key_open, parameter.name, *self.key_close), special_ids)
        return nodes.seq([*key, value, nodes.text(self.between)])

    def _opening(self, special_ids: SpecialIds, *, as_text: bool) -> list[Node]:
        opening = self.text_open if as_text and self.text_open is not None else self.value_open
        return literals((*opening, self.lead), special_ids)

    def closing(self, key: str) -> tuple[Written, ...]:
        """What ends the value of `key`."""
        if self.after_key is None:
            return self.value_close
        return (*self.value_close, key, *self.after_key)

    def read(self, reader: Reader) -> Steps[bool]:
        reader.arguments("{")
        separator = ""
        while True:
            yield from reader.skip_whitespace()
            if not (yield from self._opens_key(reader)):
                if reader.cut:
                    return False
                break
            key = yield from self._key(reader)
            if key is None:
                return False
            schema = _property(reader.schema, key)
            if (yield from self._opens_text(reader)):
                schema = _TEXT
            else:
                if self.text_open is not None and _kind(schema) != "structure":
                    schema = True  # any JSON
                yield from reader.accept_literals(self.value_open)
            if self.lead:
                yield from reader.accept(self.lead)
            reader.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            reader.commit()
            close = reader.alphabet.encode_literals(self.closing(key))
            if not (yield from self._value(reader, schema, close)):
                return False
            separator = ", "
        reader.arguments("}")
        reader.commit()
        return True

    def _opens_key(self, reader: Reader) -> Steps[bool]:
        """Consume `key_open`, if an argument comes next. A closing tag begins like a key's tag."""
        held = reader.pos - reader.mark
        if not (yield from reader.accept(reader.alphabet.encode_literals(self.key_open))):
            return False
        if self.after_key is not None and (yield from reader.peek()) in ("/", ""):
            reader.pos = reader.mark + held
            return False
        return True

    def _key(self, reader: Reader) -> Steps[str | None]:
        close = reader.alphabet.encode_literals(self.key_close)
        while (at := reader.text.find(close, reader.pos)) < 0:
            if reader.ended or len(reader.text) - reader.pos > 1000:
                return None
            yield
        key = reader.text[reader.pos : at].strip()
        reader.pos = at + len(close)
        return key if key and not _SYMBOL.search(key) else None

    def _opens_text(self, reader: Reader) -> Steps[bool]:
        """Consume `text_open`, if it comes next."""
        if self.text_open is None:
            return False
        yield from reader.skip_whitespace()
        opening = reader.alphabet.encode_literals(self.text_open).lstrip(WHITESPACE)
        return (yield from reader.accept(opening))

    def _value(self, reader: Reader, schema: Any, close: str) -> Steps[bool]:
        kind = _kind(schema)
        opening = _OPENINGS.get(kind, "")
        if kind == "other" and _types(schema) == {"string"}:
            opening = '"'
        if opening:
            yield from reader.skip_whitespace()
            if (first := (yield from reader.peek())) and first in opening:
                fits = yield from stream_literal(reader)
                yield from reader.skip_whitespace()
                return fits and (yield from self._close(reader, close))
        if kind == "text":
            reader.arguments('"')
            while True:
                end, whole = self._text_end(reader, close)
                reader.arguments(json_inside(reader.text[reader.pos : end]))
                reader.pos = end
                reader.commit()
                if whole:
                    break
                if reader.cut:
                    reader.drop()
                    return False
                yield
            reader.arguments('"')
        else:
            while not self._text_end(reader, close)[1]:
                if reader.cut:
                    end, _ = self._text_end(reader, close)
                    reader.arguments(_partial_json(reader.text[reader.pos : end], kind))
                    reader.drop()
                    return False
                yield
            end, _ = self._text_end(reader, close)
            reader.arguments(_as_json(reader.text[reader.pos : end], schema))
            reader.pos = end
        reader.commit()
        return (yield from self._close(reader, close))

    def _text_end(self, reader: Reader, close: str) -> tuple[int, bool]:
        """(end of the text that certainly belongs to the value, whether the value is complete).
        A special token also ends the value. A length limit does not, since a value cut short must
        not look complete.
        """
        scanner = MarkerScanner([close])
        found = scanner.find(reader.text, reader.pos)
        special = _SYMBOL.search(reader.text, reader.pos)
        if found and (special is None or found[0] <= special.start()):
            end = found[0]
        elif special:
            end = special.start()
        elif reader.ended and not reader.cut:
            return len(reader.text), True
        else:
            end = scanner.held_from(reader.text, reader.pos)
            if self.trail and end > reader.pos and reader.text[end - 1] == self.trail:
                end -= 1
            return end, False
        if self.trail and reader.text[reader.pos : end].endswith(self.trail):
            end -= len(self.trail)
        return end, True

    def _close(self, reader: Reader, close: str) -> Steps[bool]:
        if self.trail:
            yield from reader.accept(self.trail)
        if (yield from reader.accept(close)):
            reader.commit()
            return True
        # Accept an unclosed value before another marker.
        return bool(_SYMBOL.match((yield from reader.peek())))


def _partial_json(text: str, kind: Kind) -> str:
    """The JSON prefix of a value cut short: a string without its end quote, or raw text."""
    trimmed = text.strip(WHITESPACE)
    if kind == "nullable" and not "null".startswith(trimmed):
        return '"' + json_inside(text)
    return _SPELLINGS.get(trimmed, trimmed)


def _may_be_text(schema: Any) -> bool:
    """True if the schema allows every string."""
    return schema is True or schema == {} or any(map(is_text, branches(schema)))


def _kind(schema: Any) -> Kind:
    if is_text(schema) or text_choices(schema) is not None:
        return "text"
    if is_nullable_text(schema):
        return "nullable"
    return "structure" if _types(schema) and _types(schema) <= {"object", "array"} else "other"


def _types(schema: Any) -> set[str]:
    kinds = schema.get("type", []) if isinstance(schema, dict) else []
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _property(schema: Any, name: str) -> Any:
    """The schema of a property; True (any value) if the tool's schema does not name it."""
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema and "properties" not in schema:
        target: Any = schema
        for step in schema["$ref"].split("/")[1:]:
            target = target.get(step, {}) if isinstance(target, dict) else {}
        schema = target
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return properties.get(name, True)


_SPELLINGS = {"True": "true", "False": "false", "None": "null"}


def _as_json(text: str, schema: Any) -> str:
    """A raw value as JSON: kept if it is valid JSON, unless the schema demands a string; else
    quoted.
    """
    trimmed = text.strip(WHITESPACE)
    trimmed = _SPELLINGS.get(trimmed, trimmed)
    try:
        value = json.loads(trimmed)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if is_nullable_text(schema):
        return "null" if value is None else json.dumps(text, ensure_ascii=False)
    if _types(schema) == {"string"} and not isinstance(value, str):
        return json.dumps(text, ensure_ascii=False)
    return trimmed
