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
        return (yield from _JsonMembers(reader, self.arguments_key, self.name_first).read())


class _JsonMembers:
    """The members of one JSON call: which have come, and the arguments that wait for the name."""

    def __init__(self, reader: Reader, arguments_key: str, name_first: bool) -> None:
        self._reader = reader
        self._arguments_keys = (arguments_key, *_ARGUMENTS_KEYS)
        self._name_first = name_first
        self._started = self._complete = False
        self._early: str | None = None  # arguments that came before the name

    def read(self) -> Steps[bool]:
        """From behind the opening brace to the end of the closing one."""
        reader = self._reader
        while True:
            yield from reader.skip_whitespace()
            if (yield from reader.accept("}")):
                break
            if not (yield from self._member()):
                return False
            yield from reader.skip_whitespace()
            # A comma may also come before the end: models write it, and nothing is lost.
            if not (yield from reader.accept(",")) and (yield from reader.peek()) != "}":
                return False
        if self._started and not self._complete:
            reader.arguments("{}")
        return self._started

    def _member(self) -> Steps[bool]:
        reader = self._reader
        to_the_letter = self._name_first and not self._started
        key = yield from (_first_key(reader) if to_the_letter else reader.json_string())
        if key is None:
            return False
        yield from reader.skip_whitespace()
        if not (yield from reader.accept(":")):
            return False
        yield from reader.skip_whitespace()
        if key in _NAME_KEYS and not self._started:
            return (yield from self._name(escapes=not to_the_letter))
        if key in self._arguments_keys and self._started and not self._complete:
            self._complete = yield from reader.stream_json()
            return self._complete
        value = yield from reader.json_text()
        if value is None or (to_the_letter and value != '"function"'):
            return False
        if key in self._arguments_keys and self._early is None:
            self._early = value
        return True

    def _name(self, *, escapes: bool) -> Steps[bool]:
        name = yield from self._reader.json_string(escapes=escapes)
        if name is None or not self._reader.start_call(name):
            return False
        self._started = True
        if self._early is not None:
            self._reader.arguments(self._early)
            self._complete = True
        return True


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
class Label:
    """A call's number or id, which matches `pattern`. The parser drops it: clients get ids of ours,
    and the template writes those in the next turn.
    """

    pattern: str

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        return nodes.regex(self.pattern)

    def read(self, reader: Reader) -> Steps[bool]:
        yield from reader.skip_whitespace()
        return bool((yield from reader.name()))


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
