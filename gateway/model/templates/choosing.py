"""Chooses the format of a model's tool calls. The chat template decides: a known format is taken if
it reads and writes what the template writes; else one is derived; `generic` is the last resort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.templates.turns import TemplateTurns
from formgate.parsers.derivation.check import CheckReport, check_format
from formgate.parsers.derivation.derive import derive_format, writes_ids
from formgate.parsers.derivation.samples import THOUGHT
from formgate.parsers.derivation.thoughts import derive_reasoning, reads_thought
from formgate.parsers.families.generic import GENERIC
from formgate.parsers.families.registry import (
    FORMATS,
    detect_reasoning_format,
    detect_tool_format,
    find_reasoning_format,
    find_tool_format,
)
from formgate.parsers.formats.format import Format, ReasoningFormat

Origin = Literal["known", "derived", "unconfirmed", "generic"]


@dataclass(frozen=True)
class FormatChoice:
    """`origin`: "known": a written format that the template confirms; "derived": made from the
    template; "unconfirmed": known by words of the template or by the tokenizer, as the template
    shows no calls; "generic": none of these. `reason` is one line. `report` is None if nothing
    could be checked.
    """

    format: Format
    origin: Origin
    reason: str
    report: CheckReport | None = None

    @property
    def confirmed(self) -> bool:
        """True if the calls that the template shows come back."""
        return self.origin in ("known", "derived")


def choose_format(
    template: ChatTemplate | None,
    source: str | None,
    architecture: str,
    special_ids: Mapping[str, int],
    reasoning: ReasoningFormat | None,
) -> FormatChoice:
    hinted = find_tool_format(detect_tool_format(source, architecture, special_ids), special_ids)
    assert hinted is not None
    if template is None:
        return _without_calls(hinted, "there is no chat template", None)
    turns = TemplateTurns(template, special_ids)
    choice = _Choice(turns, special_ids, reasoning)
    report = choice.report(hinted)
    if not report.shown:
        return _without_calls(hinted, report.outcomes[0].detail, report)
    first = [] if hinted is GENERIC else [hinted]
    others = [each for each in FORMATS.values() if each not in (GENERIC, hinted)]
    for known in (*first, *others):
        report = choice.report(known)
        if report.reads and report.exact:
            return FormatChoice(known, "known", _KNOWN, report)
    derived = derive_format(
        turns,
        special_ids,
        reasoning=reasoning,
        lead=turns.frame[0],
        call_ids="mistral" if template.wants_short_call_ids else "openai",
    )
    alike = next((each for each in (*first, *others) if choice.report(each).reads), None)
    if derived is not None:
        report = choice.report(derived)
        better = alike is None or (report.exact and not writes_ids(derived))
        if report.reads and better:
            return FormatChoice(derived, "derived", _DERIVED, report)
    if alike is not None:
        return FormatChoice(alike, "known", _KNOWN_ALIKE, choice.report(alike))
    return FormatChoice(GENERIC, "generic", _UNREADABLE, choice.report(derived or hinted))


def choose_reasoning(
    template: ChatTemplate | None,
    source: str | None,
    architecture: str,
    special_ids: Mapping[str, int],
) -> ReasoningFormat | None:
    """The format of the model's reasoning: the one that the template's words suggest, unless the
    template shows a thought that it does not read and a derived one does. None: there is none.
    """
    name = detect_reasoning_format(source, architecture, special_ids)
    hinted = None if name is None else find_reasoning_format(name)
    if template is None:
        return hinted
    turn = TemplateTurns(template, special_ids).thoughtful(THOUGHT)
    if turn is None or (hinted is not None and reads_thought(hinted, turn, special_ids)):
        return hinted
    return derive_reasoning(turn, special_ids) or hinted


_KNOWN = "it reads and writes calls as the template does"
_KNOWN_ALIKE = "it reads the template's calls, though it writes its own a little otherwise"
_DERIVED = "no known format writes calls as the template does, and this one was made from it"
_UNREADABLE = "the template shows calls in a syntax that no format could be derived from"


def _without_calls(hinted: Format, reason: str, report: CheckReport | None) -> FormatChoice:
    if hinted is GENERIC:
        return FormatChoice(hinted, "generic", reason, report)
    return FormatChoice(hinted, "unconfirmed", reason, report)


class _Choice:
    """The reports of one template's formats, each made once."""

    def __init__(
        self,
        turns: TemplateTurns,
        special_ids: Mapping[str, int],
        reasoning: ReasoningFormat | None,
    ) -> None:
        self._turns = turns
        self._special_ids = special_ids
        self._reasoning = reasoning
        self._made: dict[Format, CheckReport] = {}

    def report(self, format: Format) -> CheckReport:
        if format not in self._made:
            self._made[format] = check_format(
                format, self._reasoning, self._turns, self._special_ids
            )
        return self._made[format]
