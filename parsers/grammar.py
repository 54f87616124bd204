"""The answer tree of one request: reasoning, then content or tool calls, as the request allows and
as the model family writes them. Read off the same `Format` as the stream parser. It does not know
how a tree becomes a mask.
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
    """What the model may write from its first token to before the end of the sequence.

    `content` is the node of a response_format; None: free text. The result is None if nothing is
    to be constrained. With a `thinking_budget` the reasoning, where there may be some, comes once
    at the most, and not at all if it is 0; counting tokens is left to others. Raises ValueError if
    a call is demanded and there is no tool, and `UnsupportedArguments` for parameters that the
    family's syntax cannot be held to.
    """
    thoughts = _Thoughts(format, reasoning, reasoning_state, special_ids, thinking_budget)
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
        answer = calls.first(structured_content=content is not None)
    elif content is not None:
        answer = nodes.choice([content, calls.first(structured_content=True)])
    else:
        typed = thoughts.typed_opening
        thoughtless = calls.or_free_text(thoughtless=typed) if typed else None
        return thoughts.before(calls.or_free_text(), thoughtless)
    return thoughts.before(answer)


class _Calls:
    """The calls of one format to these tools."""

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

    def first(self, *, structured_content: bool) -> Node:
        """Calls from the first character of the answer on."""
        if not self._format.allows_bare(structured_content):
            return self._behind(self._marker())
        return self._behind(nodes.optional(self._marker()) if self._has_token else nodes.EMPTY)

    def or_free_text(self, *, thoughtless: str = "") -> Node:
        """Free text, then calls or the end of the answer. A marker that is no special token must
        not be part of the free text, or the model could call without being held to anything.

        `thoughtless`: the text that would open the reasoning, and that this answer must not begin
        with: it would be read as a thought, and a call then ends or stands where no mask had one.
        """
        format = self._format
        opening = literals(format.content_opening, self._special_ids)
        if format.bare:
            starts = [
                [word.replace("{name}", name) for word in words]
                for words in format.bare_starts
                for name in (self._names if any("{name}" in word for word in words) else [""])
            ]
            starts += [[thoughtless]] if thoughtless else []
            other: Node = nodes.regex(text_not_beginning(starts))
            between: Node = nodes.EMPTY
            if self._has_token:
                between = nodes.optional(nodes.seq([other, self._marker()]))
            return nodes.choice([self._behind(between), other])
        if opening:  # content and calls are messages of their own
            return nodes.choice([nodes.seq([*opening, nodes.free()]), self._behind(self._marker())])
        if self._has_token:
            return nodes.seq([nodes.free(), nodes.optional(self._behind(self._marker()))])
        first, *rest = literals(format.marker, self._special_ids)
        assert first["kind"] == "text"
        if thoughtless:
            without, through_marker = text_avoiding(first["value"], thoughtless)
            lead: Node = nodes.regex(through_marker)
        else:
            without, lead = text_without(first["value"]), nodes.free_text_until(first["value"])
        return nodes.choice([nodes.regex(without), self._behind(nodes.seq([lead, *rest]))])

    def _behind(self, marker: Node) -> Node:
        """The calls, with `marker` standing for the first marker of the format."""
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
        # Other text may begin like `before` too, and of two lexemes the longer one wins: so it is
        # one literal with what follows it.
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
class _Thoughts:
    """The reasoning that may come before an answer."""

    format: Format | None
    reasoning: ReasoningFormat | None
    state: ReasoningState
    special_ids: SpecialIds
    budget: int | None

    @property
    def limited(self) -> bool:
        may_reason = self.reasoning is not None and self.state in ("open", "optional")
        return may_reason and self.budget is not None

    @property
    def typed_opening(self) -> str:
        """What opens the reasoning, where the model may do so and any text may look like it."""
        if self.reasoning is None or self.state != "optional" or self.budget == 0:
            return ""
        opening = literals(self.reasoning.open, self.special_ids)
        return text_of(self.reasoning.open) if opening[0]["kind"] == "text" else ""

    def before(self, answer: Node, thoughtless: Node | None = None) -> Node:
        """`thoughtless`: the answer without reasoning, where it is not the same."""
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
        if thoughtless is not None:
            return nodes.choice([nodes.seq([thought, answer]), thoughtless])
        if reasoning.reopens and self.budget is None:
            return nodes.seq([nodes.repeat(thought, 0, None), answer])
        return nodes.seq([nodes.optional(thought), answer])


def _takes_space(answer: Node) -> bool:
    """Whether the answer's own first text lets newlines through."""
    if answer["kind"] == "seq":
        return _takes_space(answer["items"][0])
    return answer["kind"] in ("free", "free_text_until")
