"""The answer tree of one request: reasoning, then content or tool calls, in the syntax of the model
family. It follows the same `Format` as the stream parser and does not know how a tree becomes a
mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formgate.parsers.formats.format import (
    Format,
    ReasoningFormat,
    ReasoningState,
    SpecialIds,
    Tool,
    ToolChoice,
)
from formgate.parsers.formats.literals import literal, literals, through
from formgate.parsers.text.symbols import Marker, text_of
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node
from formgate.parsers.tree.patterns import text_avoiding, text_not_beginning, text_without


def answer_grammar(
    format: Format | None,
    reasoning: ReasoningFormat | None,
    *,
    tools: Sequence[Tool],
    tool_choice: ToolChoice,
    parallel: bool,
    content: Node | None,
    reasoning_state: ReasoningState,
    special_ids: SpecialIds,
    thinking_budget: int | None = None,
) -> Node | None:
    """The grammar of the answer, without the EOS token; None if nothing is constrained.

    `content` is the node of a response_format; None: free text. With a `thinking_budget` there is
    at most one reasoning region, and none if the budget is 0; its tokens are counted elsewhere.
    Raises ValueError if a call is required and there is no tool, and UnsupportedArguments for
    parameters that the family's syntax cannot enforce.
    """
    thoughts = _Reasoning(format, reasoning, reasoning_state, special_ids, thinking_budget)
    chosen = tool_choice.allowed(tools) if format is not None else []
    must_call = tool_choice.mode in ("required", "named")
    if must_call and not chosen:
        raise ValueError("a tool call is required, but there is no tool to call")
    if content is None and not chosen and thoughts.limited:
        content = nodes.free()
    if content is not None:
        content = nodes.seq(
            [*literals(format.content_opening if format else (), special_ids), content]
        )
    if format is None or not chosen:
        if content is None:
            return None
        return thoughts.before(content)
    once = not parallel or tool_choice.mode == "named"
    calls = _Calls(format, chosen, special_ids, 1 if once else format.max_calls)
    if must_call:
        answer = calls.at_start(structured_content=content is not None)
    elif content is not None:
        answer = nodes.choice([content, calls.at_start(structured_content=True)])
    else:
        opening = thoughts.text_opening
        unreasoned = calls.or_free_text(not_starting_with=opening) if opening else None
        return thoughts.before(calls.or_free_text(), unreasoned)
    return thoughts.before(answer)


class _Calls:
    """The grammar of calls to `tools`, at most `most` of them (None: no limit)."""

    def __init__(
        self, format: Format, tools: Sequence[Tool], special_ids: SpecialIds, most: int | None
    ) -> None:
        self._format = format
        self._special_ids = special_ids
        self._most = most
        self._names = [tool.name for tool in tools]
        self._each = [self._one_call(tool) for tool in tools]
        self._call = nodes.choice(self._each)
        self._has_token = format.has_token(special_ids)

    def at_start(self, *, structured_content: bool) -> Node:
        """Calls from the first character of the answer on."""
        if not self._format.allows_bare(structured_content):
            return self._after(self._marker())
        return self._after(nodes.optional(self._marker()) if self._has_token else nodes.EMPTY)

    def or_free_text(self, *, not_starting_with: str = "") -> Node:
        """Free text, then calls or the end of the answer. The free text excludes a marker that is
        plain text, since a call after it would be unconstrained.

        `not_starting_with`: the text that opens the reasoning. An answer that started with it would
        be parsed as reasoning, and the parser would disagree with the mask about calls in it.
        """
        format = self._format
        opening = literals(format.content_opening, self._special_ids)
        if format.bare:
            starts = [
                [word.replace("{name}", name) for word in words]
                for words in format.bare_starts
                for name in (self._names if any("{name}" in word for word in words) else [""])
            ]
            starts += [[not_starting_with]] if not_starting_with else []
            other: Node = nodes.regex(text_not_beginning(starts))
            between: Node = nodes.EMPTY
            if self._has_token:
                between = nodes.optional(nodes.seq([other, self._marker()]))
            return nodes.choice([self._after(between), other])
        if opening:  # content and calls are separate messages
            return nodes.choice([nodes.seq([*opening, nodes.free()]), self._after(self._marker())])
        if self._has_token:
            return nodes.seq([nodes.free(), nodes.optional(self._after(self._marker()))])
        first, *rest = literals(format.marker, self._special_ids)
        assert first["kind"] == "text"
        if not_starting_with:
            without, through_marker = text_avoiding(first["value"], not_starting_with)
            lead: Node = nodes.regex(through_marker)
        else:
            without, lead = text_without(first["value"]), nodes.free_text_until(first["value"])
        return nodes.choice([nodes.regex(without), self._after(nodes.seq([lead, *rest]))])

    def _after(self, marker: Node) -> Node:
        """Calls with `marker` in place of the format's first marker."""
        format = self._format
        before, between, after = (
            literals(parts, self._special_ids)
            for parts in (format.before, format.between, format.after)
        )
        if format.spaced:
            before = [nodes.optional(nodes.text(" ")), *before]
        if format.one_per_marker:
            call = nodes.seq([*before, self._call, *after])
            again = nodes.seq([*between, self._marker()])
            return nodes.seq([marker, nodes.repeat(call, 1, self._most, again)])
        if not format.bare or not before:
            calls = nodes.repeat(self._call, 1, self._most, nodes.seq(between))
            return nodes.seq([marker, *before, calls, *after])
        # Free text may also start with `before`, and the lexer prefers the longer lexeme. So join
        # `before` and the start of the call into one literal.
        first = nodes.choice([nodes.seq([*before, call]) for call in self._each])
        if self._most == 1:
            return nodes.seq([marker, first, *after])
        more = nodes.repeat(nodes.seq([*between, self._call]), 0, None)
        return nodes.seq([marker, first, more, *after])

    def _marker(self) -> Node:
        return nodes.seq(literals(self._format.marker, self._special_ids))

    def _one_call(self, tool: Tool) -> Node:
        return nodes.seq(
            literal(part, self._special_ids)
            if isinstance(part, Marker | str)
            else part.tree(tool, self._special_ids)
            for part in self._format.call
        )


@dataclass(frozen=True)
class _Reasoning:
    """The grammar of the reasoning before an answer."""

    format: Format | None
    reasoning: ReasoningFormat | None
    state: ReasoningState
    special_ids: SpecialIds
    budget: int | None

    @property
    def limited(self) -> bool:
        """True if reasoning is possible and has a budget."""
        may_reason = self.reasoning is not None and self.state in ("open", "optional")
        return may_reason and self.budget is not None

    @property
    def text_opening(self) -> str:
        """The opening marker, if the model may write it and it is plain text; else empty."""
        if self.reasoning is None or self.state != "optional" or self.budget == 0:
            return ""
        opening = literals(self.reasoning.open, self.special_ids)
        return text_of(self.reasoning.open) if opening[0]["kind"] == "text" else ""

    def before(self, answer: Node, unreasoned: Node | None = None) -> Node:
        """Reasoning, then `answer`. `unreasoned`: the answer without reasoning, if it differs."""
        reasoning, ids = self.reasoning, self.special_ids
        if reasoning is None or self.state in ("none", "closed"):
            return answer
        glue = literals(self.format.glue if self.format else (), ids)
        gap = (
            [nodes.regex(rf"\n{{0,{reasoning.gap}}}")]
            if reasoning.gap and not _takes_space(answer)
            else []
        )
        if self.state == "open":
            close = literals(reasoning.close, ids)
            end = close if self.budget == 0 else [through(reasoning.close, ids)]
            return nodes.seq([*end, *gap, *glue, answer])
        if self.budget == 0:
            return answer
        thought = nodes.seq(
            [*literals(reasoning.open, ids), through(reasoning.close, ids), *gap, *glue]
        )
        if unreasoned is not None:
            return nodes.choice([nodes.seq([thought, answer]), unreasoned])
        if reasoning.reopens and self.budget is None:
            return nodes.seq([nodes.repeat(thought, 0, None), answer])
        return nodes.seq([nodes.optional(thought), answer])


def _takes_space(answer: Node) -> bool:
    """True if the answer's first node accepts newlines itself."""
    if answer["kind"] == "seq":
        return _takes_space(answer["items"][0])
    return answer["kind"] in ("free", "free_text_until")
