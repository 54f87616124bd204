"""Reads back what a template writes. A format is a model's own only if every call that the template
shows comes back from the stream parser as it was, with no text left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from formgate.parsers.derivation.atoms import Atoms, is_token_like
from formgate.parsers.derivation.samples import (
    ALONE,
    CHECKS,
    FIRST,
    NAMES,
    THOUGHT,
    TOOLS,
    Call,
    NotWritten,
    TurnWriter,
    WrittenTurn,
)
from formgate.parsers.derivation.writing import written_calls
from formgate.parsers.formats.calls import Expected, Tolerated
from formgate.parsers.formats.format import Format, ReasoningFormat, ReasoningState, ToolChoice
from formgate.parsers.formats.keywords import KeywordArguments
from formgate.parsers.formats.tagged import TaggedArguments
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import (
    ContentDelta,
    Piece,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)
from formgate.parsers.text.symbols import text_of
from formgate.parsers.tree.nodes import json_object


@dataclass(frozen=True)
class Outcome:
    """`state`: "ok"; "wrong": the calls do not come back; "not shown": the template refuses the
    conversation or leaves its calls out. `detail` is one line.
    """

    check: str
    state: str
    detail: str = ""


_GRAMMAR = "a grammar for every request"


@dataclass(frozen=True)
class CheckReport:
    """`exact`: the format's grammar makes the very text that the template writes."""

    outcomes: tuple[Outcome, ...]
    exact: bool = False

    @property
    def reads(self) -> bool:
        """True if the template shows calls, and all that it shows come back."""
        states = {each.state for each in self.outcomes if each.check in (*CHECKS, _GRAMMAR)}
        return "ok" in states and "wrong" not in states

    @property
    def shown(self) -> bool:
        """True if the template shows any calls."""
        return any(each.state != "not shown" for each in self.outcomes if each.check in CHECKS)


def check_format(
    format: Format,
    reasoning: ReasoningFormat | None,
    write: TurnWriter,
    special_ids: Mapping[str, int],
) -> CheckReport:
    reader = _Reader(format, reasoning, special_ids)
    outcomes = []
    for name, calls in CHECKS.items():
        outcome = reader.outcome(name, calls, write)
        if outcome.state == "not shown" and name in ALONE:
            alone = reader.outcome(name, ALONE[name], write)
            if alone.state != "not shown" and name != "two calls":
                outcome = alone
        outcomes.append(outcome)
    if reasoning is not None:
        outcomes.append(reader.outcome("a thought before", CHECKS["one call"], write, THOUGHT))
    if (why := _without_grammar(format, reasoning, special_ids)) is not None:
        outcomes.append(Outcome(_GRAMMAR, "wrong", why))
    return CheckReport(tuple(outcomes), _writes_the_same(format, write))


def _without_grammar(
    format: Format, reasoning: ReasoningFormat | None, special_ids: Mapping[str, int]
) -> str | None:
    """Why a request would have no grammar; None if each has one. A derived marker may not be what
    patterns for free text need, and the time to find out is not that of a request.
    """
    states: tuple[ReasoningState, ...] = ("none",) if reasoning is None else ("optional", "open")
    choices = (ToolChoice("auto"), ToolChoice("required"))
    for state, choice, content in product(states, choices, (None, json_object())):
        try:
            answer_grammar(
                format,
                reasoning,
                tools=TOOLS,
                tool_choice=choice,
                parallel=True,
                content=content,
                reasoning_state=state,
                special_ids=special_ids,
            )
        except (AssertionError, ValueError) as error:
            return f"{type(error).__name__} with thoughts {state} and {choice.mode} calls"
    return None


def _writes_the_same(format: Format, write: TurnWriter) -> bool:
    """True if the template writes calls as the format does. A format with parts that its grammar
    leaves out is taken at its word: its family has more than one spelling.
    """
    if any(isinstance(part, Tolerated | Expected) for part in format.call):
        return True
    samples: list[list[Call]] = [[Call(NAMES[0])], [Call(NAMES[0]), Call(NAMES[1])]]
    if any(isinstance(part, TaggedArguments | KeywordArguments) for part in format.call):
        samples.append([Call(NAMES[0], {FIRST: "marble"})])
    alike = False
    for calls in samples:
        try:
            text = write(calls).text
        except NotWritten:
            continue
        if format.spaced and format.marker:
            marker = text_of(format.marker)
            text = text.replace(f"{marker} ", marker)
        # Python's texts have either quote.
        alike = written_calls(format, calls).replace("'", '"') in text.replace("'", '"')
        if not alike:
            return False
    return alike


class _Reader:
    def __init__(
        self,
        format: Format,
        reasoning: ReasoningFormat | None,
        special_ids: Mapping[str, int],
    ) -> None:
        self._format = format
        self._reasoning = reasoning
        self._special_ids = special_ids
        self._atoms = Atoms(special_ids)
        self._markers = text_of((*format.after, *(p for p in format.call if isinstance(p, str))))

    def outcome(
        self, name: str, calls: Sequence[Call], write: TurnWriter, thought: str = ""
    ) -> Outcome:
        try:
            turn = write(calls, thought)
        except NotWritten as reason:
            return Outcome(name, "not shown", str(reason))
        if thought and thought not in turn.text:
            return Outcome(name, "not shown", "the template leaves the thought out")
        states: tuple[ReasoningState, ...] = ("none",)
        if self._reasoning is not None:
            states = ("optional", "open") if thought else ("closed", "optional", "open")
        details = [self._difference(turn, calls, thought, state) for state in states]
        if None in details:
            return Outcome(name, "ok")
        return Outcome(name, "wrong", details[0] or "")

    def _difference(
        self, turn: WrittenTurn, calls: Sequence[Call], thought: str, state: ReasoningState
    ) -> str | None:
        """What does not come back; None if everything does."""
        made, content, reasoning = self._read(turn, state)
        wanted = [(call.name, call.arguments) for call in calls]
        if [name for name, _ in made] != [name for name, _ in wanted]:
            return f"{len(made)} calls of {len(wanted)} are read from {turn.text[:60]!r}"
        for (name, text), (_, arguments) in zip(made, wanted, strict=True):
            try:
                got: Any = json.loads(text or "{}")
            except ValueError:
                got = text
            if got != arguments:
                return f"the arguments of {name} are read as {str(got)[:80]}"
        if content.strip():
            return f"the text {content.strip()[:60]!r} is left"
        return f"the thought is read as {reasoning[:60]!r}" if thought != reasoning else None

    def _read(self, turn: WrittenTurn, state: ReasoningState) -> tuple[list[Any], str, str]:
        parser = OutputParser(
            self._format,
            self._reasoning,
            tools_enabled=True,
            reasoning_state=state,
            special_ids=self._special_ids,
            tools=TOOLS,
        )
        end = self._atoms.common_end(turn.text, turn.ending)
        atoms = self._atoms.split(turn.text[: len(turn.text) - len(end)])
        while atoms and self._ends_the_turn(atoms[-1], parser.marker_ids):
            atoms.pop()
        pieces = [Piece(atom, self._special_ids.get(atom)) for atom in atoms]
        calls: list[list[str]] = []
        content = reasoning = ""
        for delta in [*parser.feed(pieces), *parser.finish()]:
            match delta:
                case ToolCallStart(_, name, _):
                    calls.append([name, ""])
                case ToolCallArguments(index, more):
                    calls[index][1] += more
                case ContentDelta(more):
                    content += more
                case ReasoningDelta(more):
                    reasoning += more
        return [tuple(call) for call in calls], content, reasoning

    def _ends_the_turn(self, atom: str, markers: frozenset[int]) -> bool:
        """True for space and for tokens that the format does not know, behind all calls."""
        token = self._special_ids.get(atom)
        if token is None:
            return atom.isspace() or (atom not in self._markers and is_token_like(atom))
        return token not in markers
