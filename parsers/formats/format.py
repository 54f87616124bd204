"""The answer format of a model family, as data. A format names the regions of an answer and the
literals between them; the answer tree (`grammar`) and the stream parser (`stream`) both follow it.
It knows no token ids: a `Marker` is a special token if the tokenizer has it, else plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Protocol

from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.symbols import Marker, Written
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node, Schema

CallIds = Literal["openai", "mistral", "written"]
SpecialIds = Mapping[str, int]
ToolMode = Literal["none", "auto", "required", "named"]
ReasoningState = Literal["none", "closed", "open", "optional"]


@dataclass(frozen=True)
class Tool:
    """A tool that a call may name. `parameters`: schema of its arguments; None: any JSON object.
    `pointer`: JSON Pointer to the schema in the request, such as "/tools/0/function/parameters",
    for errors. `input`: for a tool whose only argument is a string named "input", the grammar of
    the text between its quotes.
    """

    name: str
    parameters: Mapping[str, Any] | bool | None = None
    pointer: str = ""
    input: Node | None = None

    @property
    def schema(self) -> Schema:
        """The schema of the arguments, which are always an object."""
        if isinstance(self.parameters, Mapping) and self.parameters:
            schema = dict(self.parameters)
            return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}
        return {"type": "object"}

    def arguments(self) -> Node:
        """Grammar of the arguments as one JSON object."""
        if self.input is None:
            return nodes.json_value(self.schema, pointer=self.pointer)
        return nodes.seq([nodes.text('{"input": '), self.quoted_input(), nodes.text("}")])

    def quoted_input(self) -> Node:
        """Grammar of `input` as a JSON string."""
        assert self.input is not None
        return nodes.seq([nodes.text('"'), self.input, nodes.text('"')])


@dataclass(frozen=True)
class ToolChoice:
    """The request's tool choice. `names`: the allowed tools; None: all. "named" has exactly one."""

    mode: ToolMode
    names: frozenset[str] | None = None

    @classmethod
    def named(cls, name: str) -> ToolChoice:
        return cls("named", frozenset((name,)))

    def allowed(self, tools: Sequence[Tool]) -> list[Tool]:
        if self.mode == "none":
            return []
        return [tool for tool in tools if self.names is None or tool.name in self.names]


class UnsupportedArguments(ValueError):
    """The family's syntax for arguments cannot enforce this schema."""

    def __init__(
        self, tool: Tool, keyword: str, pointer: str = "", *, unwritable: str | None = None
    ) -> None:
        action = f"enforce {keyword!r}"
        if unwritable is not None:
            action = f"write the name {unwritable[:100]!r}"
        super().__init__(
            f"The tool call format of this model cannot {action} "
            f"in the parameters of {tool.name!r}."
        )
        self.tool = tool
        self.keyword = keyword
        self.pointer = f"{tool.pointer}{pointer}"


class CallPart(Protocol):
    """A part of a call that is not a literal."""

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node:
        """The grammar of the part in a call of `tool`."""
        ...

    def read(self, reader: Reader) -> Steps[bool]:
        """Consume the part and emit its deltas. False: malformed; the reader is at the mismatch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """The tool calls of a model family:

        one_per_marker:   marker before call after   between   marker before call after   ...
        otherwise:        marker before   call between call ...   after

    With `bare`, calls may also start the answer without the marker. `bare_starts` are then the word
    sequences that content must not start with; "{name}" stands for any tool's name.
    """

    name: str
    call: tuple[Written | CallPart, ...]
    marker: tuple[Written, ...] = ()
    other_markers: tuple[tuple[Written, ...], ...] = ()  # parsed like `marker`; not in the grammar
    header_marker: str = ""  # the same, but only at the start of the answer or after `glue`
    spaced: bool = False  # `before` may follow a space; tokenizers differ
    before: tuple[Written, ...] = ()
    between: tuple[Written, ...] = ()
    after: tuple[Written, ...] = ()
    one_per_marker: bool = False
    max_calls: int | None = None
    call_ids: CallIds = "openai"
    bare: bool = False
    bare_starts: tuple[tuple[str, ...], ...] = ()
    bare_is_json: bool = False  # a bare call may look like JSON content
    content_lead: str = ""  # an artefact before the content, which is dropped
    content_opening: tuple[Written, ...] = ()  # announces the content
    glue: tuple[Written, ...] = ()  # between the reasoning and the next message
    silent: tuple[tuple[Written, ...], ...] = ()  # framing that is dropped

    def __post_init__(self) -> None:
        assert self.marker or self.bare
        assert bool(self.bare_starts) == self.bare

    def markers(self) -> frozenset[Marker]:
        return markers_in(self)

    def allows_bare(self, structured_content: bool) -> bool:
        """True if calls may start the answer without their marker. False if they could be confused
        with JSON content and there is a marker to distinguish them.
        """
        return self.bare and not (self.bare_is_json and structured_content and self.marker)

    def has_token(self, special_ids: SpecialIds) -> bool:
        """True if the marker starts with a special token of this tokenizer."""
        first = self.marker[0] if self.marker else ""
        return isinstance(first, Marker) and first.text in special_ids


@dataclass(frozen=True)
class ReasoningFormat:
    """The reasoning region of a model family. `gap`: most newlines between `close` and the answer.
    `may_open`: the model may open the region itself if the prompt does not. `reopens`: it may do so
    more than once.
    """

    name: str
    open: tuple[Written, ...]
    close: tuple[Written, ...]
    gap: int = 2
    may_open: bool = True
    reopens: bool = False

    def markers(self) -> frozenset[Marker]:
        return markers_in(self)

    def written(
        self, special_ids: SpecialIds
    ) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
        """The opening and closing markers, special tokens by id and all else as text."""
        opening, closing = (
            tuple(
                special_ids.get(part.text, part.text) if isinstance(part, Marker) else part
                for part in parts
            )
            for parts in (self.open, self.close)
        )
        return opening, closing

    def token_ids(self, special_ids: SpecialIds) -> tuple[int | None, int | None]:
        """Ids of the opening and closing markers; None for one that is no single special token."""
        found = [
            special_ids.get(part[0].text)
            if len(part) == 1 and isinstance(part[0], Marker)
            else None
            for part in (self.open, self.close)
        ]
        return found[0], found[1]


def markers_in(definition: object) -> frozenset[Marker]:
    """All markers in a definition, at any depth."""
    if isinstance(definition, Marker):
        return frozenset((definition,))
    if isinstance(definition, tuple):
        return frozenset().union(*map(markers_in, definition))
    if is_dataclass(definition):
        return markers_in(tuple(getattr(definition, field.name) for field in fields(definition)))
    return frozenset()


def custom_reasoning(opening: str, closing: str) -> ReasoningFormat:
    """A reasoning format with the operator's markers. Raises ValueError for an empty marker."""
    if not opening or not closing:
        raise ValueError("reasoning markers must not be empty")
    return ReasoningFormat("custom", (Marker(opening),), (Marker(closing),))
