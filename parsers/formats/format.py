"""How a model family writes its answers, as data. A format names the regions of an answer and the
literals between them; the answer tree (`grammar`) and the stream parser (`stream`) are both read
off it. It does not know tokens: a `Marker` is a special token where the tokenizer has one, and
its characters where it has none.
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
    """`parameters` None: any JSON object. `pointer` is the schema's place in the request, such as
    "/tools/0/function/parameters", for errors. `input`: what stands between the quotes of the only
    argument, a string named "input", where more than a schema holds it."""

    name: str
    parameters: Mapping[str, Any] | bool | None = None
    pointer: str = ""
    input: Node | None = None

    @property
    def schema(self) -> Schema:
        """What the arguments must satisfy; always an object."""
        if isinstance(self.parameters, Mapping) and self.parameters:
            schema = dict(self.parameters)
            return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}
        return {"type": "object"}

    def arguments(self) -> Node:
        """The arguments as one JSON object."""
        if self.input is None:
            return nodes.json_value(self.schema, pointer=self.pointer)
        return nodes.seq([nodes.text('{"input": '), self.quoted_input(), nodes.text("}")])

    def quoted_input(self) -> Node:
        assert self.input is not None
        return nodes.seq([nodes.text('"'), self.input, nodes.text('"')])


@dataclass(frozen=True)
class ToolChoice:
    """What the client allows. `names`: only these tools (all, if None); "named" has one."""

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
    """The family's own syntax for arguments cannot be held to this schema."""

    def __init__(
        self, tool: Tool, keyword: str, pointer: str = "", *, unwritable: str | None = None
    ) -> None:
        what = f"enforce {keyword!r}"
        if unwritable is not None:
            what = f"write the name {unwritable[:100]!r}"
        super().__init__(
            f"The tool call format of this model cannot {what} in the parameters of {tool.name!r}."
        )
        self.tool = tool
        self.keyword = keyword
        self.pointer = f"{tool.pointer}{pointer}"


class CallPart(Protocol):
    """A part of a call that is no literal: its two sides are the two derivations."""

    def tree(self, tool: Tool, special_ids: SpecialIds) -> Node: ...

    def read(self, reader: Reader) -> Steps[bool]:
        """Consumes the part and says what is found; False: malformed, with the reader at the
        first character that does not fit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """The tool calls of a model family:

        one_per_marker:   marker before call after   between   marker before call after   ...
        otherwise:        marker before   call between call ...   after

    Where `bare`, the calls may also begin the answer, with the marker left out; then
    `bare_starts` are the beginnings (words; "{name}" is any tool's) that content must not have.
    """

    name: str
    call: tuple[Written | CallPart, ...]
    marker: tuple[Written, ...] = ()
    other_markers: tuple[tuple[Written, ...], ...] = ()  # read like `marker`, never written
    header_marker: str = ""  # likewise, first in the answer or behind `glue`: elsewhere it is prose
    spaced: bool = False  # tokenizers differ in whether a space comes before `before`
    before: tuple[Written, ...] = ()
    between: tuple[Written, ...] = ()
    after: tuple[Written, ...] = ()
    one_per_marker: bool = False
    max_calls: int | None = None
    call_ids: CallIds = "openai"
    bare: bool = False
    bare_starts: tuple[tuple[str, ...], ...] = ()
    bare_is_json: bool = False  # a bare call could pass for JSON content
    content_lead: str = ""  # an artefact that is no part of the content it stands before
    content_opening: tuple[Written, ...] = ()  # in families that announce their content
    glue: tuple[Written, ...] = ()  # between the reasoning and what follows it
    silent: tuple[tuple[Written, ...], ...] = ()  # framing that is nothing to a client

    def __post_init__(self) -> None:
        assert self.marker or self.bare
        assert bool(self.bare_starts) == self.bare

    def markers(self) -> frozenset[Marker]:
        return markers_in(self)

    def allows_bare(self, structured_content: bool) -> bool:
        """Whether calls may begin the answer without their marker. Not where they could be taken
        for the content that a response_format asks for, if there is a marker to tell them."""
        return self.bare and not (self.bare_is_json and structured_content and self.marker)

    def has_token(self, special_ids: SpecialIds) -> bool:
        """Whether the marker begins with a special token of this tokenizer."""
        first = self.marker[0] if self.marker else ""
        return isinstance(first, Marker) and first.text in special_ids


@dataclass(frozen=True)
class ReasoningFormat:
    """`gap`: how many newlines a model may put between `close` and its answer. `may_open`: the
    model opens the region itself where the prompt has not. `reopens`: more than once."""

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
        """The two markers, special tokens by id and all else as text."""
        opening, closing = (
            tuple(
                special_ids.get(part.text, part.text) if isinstance(part, Marker) else part
                for part in parts
            )
            for parts in (self.open, self.close)
        )
        return opening, closing

    def token_ids(self, special_ids: SpecialIds) -> tuple[int | None, int | None]:
        """Of the two markers, where they are single special tokens."""
        found = [
            special_ids.get(part[0].text)
            if len(part) == 1 and isinstance(part[0], Marker)
            else None
            for part in (self.open, self.close)
        ]
        return found[0], found[1]


def markers_in(definition: object) -> frozenset[Marker]:
    """All markers that a definition names, however deep."""
    if isinstance(definition, Marker):
        return frozenset((definition,))
    if isinstance(definition, tuple):
        return frozenset().union(*map(markers_in, definition))
    if is_dataclass(definition):
        return markers_in(tuple(getattr(definition, field.name) for field in fields(definition)))
    return frozenset()


def custom_reasoning(opening: str, closing: str) -> ReasoningFormat:
    """Markers that the operator names."""
    if not opening or not closing:
        raise ValueError("reasoning markers must not be empty")
    return ReasoningFormat("custom", (Marker(opening),), (Marker(closing),))
