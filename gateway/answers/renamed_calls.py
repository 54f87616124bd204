"""Calls under the names that the client gave its tools."""

from __future__ import annotations

from dataclasses import dataclass, replace

from formgate.gateway.answers.choice import Parser
from formgate.gateway.protocol.tool_names import ToolNames
from formgate.parsers.text.events import OutputDelta, Piece, ToolCallStart


@dataclass(frozen=True, slots=True)
class RenamedCalls:
    """A parser whose calls have the client's names."""

    parser: Parser
    names: ToolNames

    @property
    def marker_ids(self) -> frozenset[int]:
        return self.parser.marker_ids

    @property
    def in_reasoning(self) -> bool:
        return self.parser.in_reasoning

    def feed(self, pieces: list[Piece]) -> list[OutputDelta]:
        return self._renamed(self.parser.feed(pieces))

    def finish(self, *, cut: bool = False) -> list[OutputDelta]:
        return self._renamed(self.parser.finish(cut=cut))

    def _renamed(self, deltas: list[OutputDelta]) -> list[OutputDelta]:
        return [
            replace(delta, name=self.names.given(delta.name))
            if isinstance(delta, ToolCallStart)
            else delta
            for delta in deltas
        ]
