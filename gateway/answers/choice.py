"""One choice of an answer, from the engine's tokens to deltas: detokenizing, parsing, stop
strings, and why it ended. It is all the work that a token costs here, so it makes no objects that
nobody reads. It does not know in which response its deltas will be shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from formgate.engine.messages import AddRequest, EngineReady, PositionLogprobs, TokenOutput
from formgate.gateway.answers.answer_fold import AnswerFold, ChoiceStep
from formgate.gateway.answers.trace import Tracer
from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.model.detokenizer import Detokenizer
from formgate.gateway.model.stop_strings import StopAutomaton, StopStrings
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.tool_names import ToolNames
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    Piece,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


class Engine(Protocol):
    """What the services need of `EngineClient`."""

    @property
    def ready(self) -> EngineReady | None: ...

    def ensure_admission(self, count: int = 1) -> None: ...

    async def begin(self, requests: Sequence[AddRequest]) -> None: ...

    def abandon(self, requests: Sequence[AddRequest]) -> None: ...

    def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput]:
        """Closing it early aborts the request."""
        ...


class Parser(Protocol):
    @property
    def marker_ids(self) -> frozenset[int]: ...

    @property
    def in_reasoning(self) -> bool: ...

    def feed(self, pieces: list[Piece]) -> list[OutputDelta]: ...

    def finish(self, *, cut: bool = False) -> list[OutputDelta]: ...


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


@dataclass(frozen=True)
class ChoiceSettings:
    """What all choices of a request share."""

    tokenizer: Tokenizer
    new_parser: Callable[[], Parser] | None = None  # None: all text is content
    may_reason: bool = False
    stops: StopAutomaton | None = None
    include_stop: bool = False
    skip_special_tokens: bool = True
    at_start: bool = False
    calls_end_with_stop: bool = False  # a named choice
    new_tracer: Callable[[], Tracer] | None = None
    drop_tokens: bool = False  # one token had to be generated, and none was asked for
    constraint_param: str | None = None  # the client's name for what became the constraint


@dataclass(slots=True)
class Choice:
    index: int
    settings: ChoiceSettings
    fold: AnswerFold = field(default_factory=AnswerFold)
    num_tokens: int = 0
    num_reasoning_tokens: int = 0
    ended_by_itself: bool = False  # not cut by a limit or a stop string
    whole: bool = False  # likewise, or closed in time
    _detokenizer: Detokenizer = field(init=False)
    _parser: Parser | None = field(init=False)
    _stops: StopStrings | None = field(init=False)
    _tracer: Tracer | None = field(init=False)
    _plain: bool = field(init=False)  # its text is all there is to it
    _region: type[ContentDelta] | type[ReasoningDelta] = ContentDelta

    def __post_init__(self) -> None:
        settings = self.settings
        self._parser = settings.new_parser() if settings.new_parser else None
        self._detokenizer = Detokenizer(
            settings.tokenizer,
            markers=self._parser.marker_ids if self._parser else (),
            skip_special_tokens=settings.skip_special_tokens,
            at_start=settings.at_start,
        )
        self._tracer = settings.new_tracer() if settings.new_tracer else None
        self._stops = None
        if settings.stops is not None:
            self._stops = StopStrings(settings.stops, include=settings.include_stop)
        self._plain = (
            self._parser is None
            and self._tracer is None
            and self._stops is None
            and not settings.drop_tokens
            and not self.fold.keeps_tokens
        )

    async def steps(self, engine: Engine, request: AddRequest) -> AsyncGenerator[ChoiceStep]:
        """The steps until the engine or a stop string ends the choice."""
        first = True
        try:
            async with aclosing(engine.generate(request)) as outputs:
                async for output in outputs:
                    step = self.feed(output)
                    if first:
                        step.first = output
                        self.fold.prompt_logprobs = output.prompt_logprobs
                        first = False
                    yield step
                    if step.finish_reason is not None:
                        return
        except ApiError as error:
            if error.param != "constraint":
                raise
            raise bad_request(error.message, self.settings.constraint_param, error.code) from error

    def feed(self, output: TokenOutput) -> ChoiceStep:
        token_ids = output.token_ids
        if self._plain and output.finish_reason is None and output.logprobs is None:
            self.num_tokens += len(token_ids)
            pieces = self._detokenizer.feed(token_ids)
            text = pieces[0].text if len(pieces) == 1 else "".join([p.text for p in pieces])
            if not text:
                return ChoiceStep(self.index, [], token_ids, ())
            self.fold.add_content(text)
            return ChoiceStep(self.index, [ContentDelta(text)], token_ids, ())
        step = self._step(output)
        self.fold.add_step(step)
        return step

    def _step(self, output: TokenOutput) -> ChoiceStep:
        token_ids = output.token_ids
        settings = self.settings
        logprobs: Sequence[PositionLogprobs] = output.logprobs or ()
        if settings.drop_tokens:
            return ChoiceStep(self.index, [], [], (), output.finish_reason and "length")
        self.num_tokens += len(token_ids)
        # Like a stop string, a stop token that only the client knows cuts what the model was at.
        cut_by_client = (
            output.stop_token_id is not None
            and output.stop_token_id not in settings.tokenizer.eos_ids
        )
        shown = token_ids
        # The token that ends an answer is no part of its text.
        if (
            output.stop_token_id is not None
            and token_ids
            and token_ids[-1] == output.stop_token_id
            and not (settings.include_stop and cut_by_client)
        ):
            shown = token_ids[:-1]
            logprobs = logprobs[: len(shown)]
        reasoned = self._in_reasoning
        deltas = self._deltas(shown)
        finished = output.finish_reason is not None
        if finished:
            limited = output.finish_reason == "length" and not output.closed
            deltas += self._rest(cut=limited or cut_by_client)
        if self._stops is not None:
            deltas = self._cut(deltas, finished)
        elif len(deltas) > 1:
            deltas = _joined(deltas)
        step = ChoiceStep(self.index, deltas, token_ids, logprobs)
        if self._tracer is not None and output.trace is not None:
            # A row that is traced brings its tokens one by one.
            reasoned |= self._in_reasoning
            step.trace = [
                self._tracer.entry(token_id, trace, in_content=not reasoned and place < len(shown))
                for place, (token_id, trace) in enumerate(zip(token_ids, output.trace, strict=True))
            ]
        if self._stops is not None and self._stops.stopped is not None:
            step.finish_reason = "stop"
            step.stop_reason = self._stops.stopped
        elif finished:
            self.ended_by_itself = output.finish_reason == "stop" and not cut_by_client
            step.closed = output.closed and not cut_by_client
            self.whole = self.ended_by_itself or step.closed
            step.finish_reason = self._finish_reason(output, deltas)
            if cut_by_client:
                step.stop_reason = output.stop_token_id
        return step

    def _finish_reason(self, output: TokenOutput, last: Sequence[OutputDelta]) -> str | None:
        if not self.ended_by_itself or self.settings.calls_end_with_stop:
            return output.finish_reason
        called = self.fold.calls or any(isinstance(delta, ToolCallStart) for delta in last)
        return "tool_calls" if called else output.finish_reason

    @property
    def _in_reasoning(self) -> bool:
        return self._parser is not None and self._parser.in_reasoning

    def _deltas(self, token_ids: Sequence[int]) -> list[OutputDelta]:
        parser = self._parser
        if parser is None or not self.settings.may_reason:
            return self._parse(self._detokenizer.feed(token_ids))
        # One by one, to count them; the markers of the reasoning count with it.
        deltas: list[OutputDelta] = []
        for token_id in token_ids:
            reasons = parser.in_reasoning
            deltas += self._parse(self._detokenizer.feed((token_id,)))
            self.num_reasoning_tokens += reasons or parser.in_reasoning
        return deltas

    def _parse(self, pieces: list[Piece]) -> list[OutputDelta]:
        if self._parser is not None:
            return self._parser.feed(pieces) if pieces else []
        return [ContentDelta(piece.text) for piece in pieces]

    def _rest(self, *, cut: bool) -> list[OutputDelta]:
        deltas = self._parse(self._detokenizer.finish())
        return deltas + self._parser.finish(cut=cut) if self._parser is not None else deltas

    def _cut(self, deltas: Sequence[OutputDelta], finished: bool) -> list[OutputDelta]:
        """The deltas up to a stop string: content and reasoning are searched apart, calls never."""
        kept: list[OutputDelta] = []
        assert self._stops is not None
        for delta in deltas:
            if not isinstance(delta, ContentDelta | ReasoningDelta):
                self._let_go(kept)
                kept.append(delta)
                continue
            if type(delta) is not self._region:
                self._let_go(kept)
                self._region = type(delta)
            if text := self._stops.feed(delta.text):
                kept.append(self._region(text))
            if self._stops.stopped is not None:
                return _joined(kept)
        if finished:
            self._let_go(kept)
        return _joined(kept)

    def _let_go(self, kept: list[OutputDelta]) -> None:
        assert self._stops is not None
        if held := self._stops.finish():
            kept.append(self._region(held))


def _joined(deltas: Sequence[OutputDelta]) -> list[OutputDelta]:
    """The deltas with neighbours of the same kind joined."""
    joined: list[OutputDelta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        match last, delta:
            case ContentDelta(before), ContentDelta(after):
                joined[-1] = ContentDelta(before + after)
            case ReasoningDelta(before), ReasoningDelta(after):
                joined[-1] = ReasoningDelta(before + after)
            case ToolCallArguments(index, before), ToolCallArguments(same, after) if index == same:
                joined[-1] = ToolCallArguments(index, before + after)
            case _:
                joined.append(delta)
    return joined
