"""The parts that most families build their calls from: a tool's name, its arguments as JSON, and
both in one JSON object. Each part has a grammar (`tree`) and a parser (`read`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from formgate.parsers.formats.format import SpecialIds, Tool
from formgate.parsers.formats.literals import literals
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.symbols import Marker, Written
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node


@dataclass(frozen=True)
class Name:
    """The bare name of a tool. `then`: the character that must follow."""

    then: str = ""

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return nodes.text(tool.name)

    def read(self, reader: Reader) -> Steps[bool]:
        yield from reader.skip_whitespace()
        name = yield from reader.name()
        if self.then and (yield from reader.peek()) != self.then:
            return False
        return reader.start_call(name)


@dataclass(frozen=True)
class JsonArguments:
    """The arguments as a JSON object."""

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return tool.arguments()

    def read(self, reader: Reader) -> Steps[bool]:
        yield from reader.skip_whitespace()
        return (yield from reader.stream_json())


@dataclass(frozen=True)
class JsonCall:
    """`{"name": "f", "arguments": {...}}`. `read` accepts any order and spacing, skips other keys,
    and holds arguments that precede the name.

    `name_first`: a call must start with its name or with `"type": "function"`, without escapes. It
    is for formats whose marker is optional, where any other JSON is content.
    """

    arguments_key: str = "arguments"
    name_first: bool = False

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        name = json.dumps(tool.name, ensure_ascii=False)
        return nodes.seq(
            [
                nodes.text(f'{{"name": {name}, "{self.arguments_key}": '),
                tool.arguments(),
                nodes.text("}"),
            ]
        )

    def read(self, reader: Reader) -> Steps[bool]:
        yield from reader.skip_whitespace()
        if not (yield from reader.accept("{")):
            return False
        started = complete = False
        early: str | None = None  # arguments that came before the name
        while True:
            yield from reader.skip_whitespace()
            if (yield from reader.accept("}")):
                break
            to_the_letter = self.name_first and not started
            key = yield from (_first_key(reader) if to_the_letter else reader.json_string())
            if key is None:
                return False
            yield from reader.skip_whitespace()
            if not (yield from reader.accept(":")):
                return False
            yield from reader.skip_whitespace()
            if key in _NAME_KEYS and not started:
                name = yield from reader.json_string(escapes=not to_the_letter)
                if name is None or not reader.start_call(name):
                    return False
                started = True
                if early is not None:
                    reader.arguments(early)
                    complete = True
            elif key in (self.arguments_key, *_ARGUMENTS_KEYS) and started and not complete:
                if not (yield from reader.stream_json()):
                    return False
                complete = True
            else:
                value = yield from reader.json_text()
                if value is None or (to_the_letter and value != '"function"'):
                    return False
                if key in (self.arguments_key, *_ARGUMENTS_KEYS) and early is None:
                    early = value
            yield from reader.skip_whitespace()
            # A comma may also come before the end: models write it, and nothing is lost.
            if not (yield from reader.accept(",")) and (yield from reader.peek()) != "}":
                return False
        if started and not complete:
            reader.arguments("{}")
        return started


_NAME_KEYS = ("name",)
_ARGUMENTS_KEYS = ("arguments", "parameters")


def _first_key(reader: Reader) -> Steps[str | None]:
    for key in ("name", "type"):
        if (yield from reader.accept(f'"{key}"')):
            return key
    return None


@dataclass(frozen=True)
class NumberedName:
    """`functions.f:0`: the whole is the call's id, and the middle is the tool's name."""

    prefix: str

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return nodes.seq([nodes.text(f"{self.prefix}{tool.name}:"), nodes.regex("[0-9]{1,3}")])

    def read(self, reader: Reader) -> Steps[bool]:
        yield from reader.skip_whitespace()
        name = (yield from reader.name()).removeprefix(self.prefix)
        if not (yield from reader.accept(":")):
            return False
        number = yield from reader.name()
        return number.isdigit() and reader.start_call(name, f"{self.prefix}{name}:{number}")


@dataclass(frozen=True)
class Expected:
    """Literals that the grammar requires and the parser does not."""

    parts: tuple[Written, ...]

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return nodes.seq(literals(self.parts, special_ids))

    def read(self, reader: Reader) -> Steps[bool]:
        for part in self.parts:
            yield from reader.accept_literals((part,))
        return True


@dataclass(frozen=True)
class Tolerated:
    """A redundant marker and the word after it: the parser accepts them, the grammar does not."""

    marker: Marker

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return nodes.EMPTY

    def read(self, reader: Reader) -> Steps[bool]:
        if (yield from reader.accept_literals((self.marker,))):
            yield from reader.name()
        return True
