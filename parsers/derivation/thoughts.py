"""The reasoning region of a model, from turns with and without a thought."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from formgate.parsers.derivation.atoms import Atoms
from formgate.parsers.formats.format import ReasoningFormat, ReasoningState
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import ContentDelta, Piece, ReasoningDelta
from formgate.parsers.text.symbols import Marker, Written, text_of

_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True)
class ThoughtfulTurn:
    """A turn with a thought and an answer. `prompt`: the prompt's end, from where a turn without a
    thought differs from it; it is not empty if the prompt opens the reasoning. `text`: what the
    model writes; `before`: the last characters in front of the thought, of prompt and turn.
    """

    prompt: str
    before: str
    text: str
    thought: str
    answer: str

    @property
    def between(self) -> str:
        """The text from the thought to the answer; empty if the template leaves one out."""
        _, _, behind = self.text.partition(self.thought)
        between, found, _ = behind.partition(self.answer)
        return between if found else ""


def reads_thought(
    reasoning: ReasoningFormat, turn: ThoughtfulTurn, special_ids: Mapping[str, int]
) -> bool:
    """True if the thought and nothing else is read as reasoning."""
    states: tuple[ReasoningState, ...] = ("optional", "open")
    return any(_read(reasoning, turn, state, special_ids) == turn.thought for state in states)


def derive_reasoning(
    turn: ThoughtfulTurn, special_ids: Mapping[str, int]
) -> ReasoningFormat | None:
    """None if no pair of markers stands around the thought."""
    atoms = Atoms(special_ids)
    close = _first_marker(turn.between.lstrip(), atoms)
    if not close:
        return None
    opening = _opening(turn, close, atoms)
    if opening is None:
        return None
    reasoning = ReasoningFormat("derived", opening, (Marker(close),))
    return reasoning if reads_thought(reasoning, turn, special_ids) else None


def _opening(turn: ThoughtfulTurn, close: str, atoms: Atoms) -> tuple[Written, ...] | None:
    opened = turn.prompt.strip()
    before = turn.before.rstrip()
    if opened and (before.endswith(opened) or turn.text.lstrip().startswith(turn.thought)):
        return (Marker(opened),)
    parts = atoms.split(before)
    for at in range(len(parts) - 1, max(len(parts) - 4, -1), -1):
        if not _is_marker(parts[at], atoms):
            continue
        if not set(_WORD.findall(parts[at])) & set(_WORD.findall(close)):
            return None  # the start of the turn
        rest = "".join(parts[at + 1 :])
        return (Marker(parts[at]), rest) if rest else (Marker(parts[at]),)
    return None


def _first_marker(text: str, atoms: Atoms) -> str:
    parts = atoms.split(text)
    if parts and _is_marker(parts[0], atoms):
        return parts[0]
    line = text.partition("\n")[0].strip()
    return line if len(line) > len("</x>") else ""


def _is_marker(atom: str, atoms: Atoms) -> bool:
    return atom in atoms.tokens or (len(atom) > 2 and atom[0] in "<[")


def _read(
    reasoning: ReasoningFormat,
    turn: ThoughtfulTurn,
    state: ReasoningState,
    special_ids: Mapping[str, int],
) -> str:
    parser = OutputParser(
        None, reasoning, tools_enabled=False, reasoning_state=state, special_ids=special_ids
    )
    pieces = [Piece(atom, special_ids.get(atom)) for atom in Atoms(special_ids).split(turn.text)]
    thought = content = ""
    for delta in [*parser.feed(pieces), *parser.finish()]:
        match delta:
            case ReasoningDelta(text):
                thought += text
            case ContentDelta(text):
                content += text
    known = text_of(reasoning.close) in turn.text and turn.answer in content
    return thought if known else ""
