"""An engine process whose model is the plan: it answers each prompt with the plan's next turn. All
around it is real, the constraint too: each token must be allowed by the mask, so a call that the
tools' schemas or grammars forbid ends the request with an error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import zmq
from plan import CALLS, next_turn

from formgate.constrain.compiler import GrammarCompiler
from formgate.engine.hooks import TokenConstraint
from formgate.engine.messages import (
    AbortRequests,
    AddRequest,
    EngineCommand,
    EngineEvent,
    EngineIdle,
    EngineReady,
    EngineStats,
    Release,
    Shutdown,
    StepOutputs,
    TokenOutput,
)
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.engine_launch import EngineLaunch, end_with_parent
from formgate.gateway.processes.grammar_setup import grammar_compiler

MAX_MODEL_LEN = 400_000  # tokens: the embedded model's vocabulary is small, agents' prompts are not
MAX_FREE = 200  # tokens of an answer that the plan does not know, such as a title in JSON
BURST = 16  # tokens a step
STEP = 0.002  # seconds


class Refused(Exception):
    """The mask forbids the plan."""


@dataclass
class Planner:
    tokenizer: Tokenizer
    compiler: GrammarCompiler
    vocab_size: int

    def __post_init__(self) -> None:
        self._bytes = self.tokenizer.vocabulary().token_bytes
        self._special = self.tokenizer.special_ids
        self._eos = self.tokenizer.eos_ids[0]
        self._by_start: dict[int, list[int]] = {}
        for token, text in enumerate(self._bytes):
            if text and token not in set(self._special.values()):
                self._by_start.setdefault(text[0], []).append(token)
        for tokens in self._by_start.values():
            tokens.sort(key=lambda token: -len(self._bytes[token]))

    def answer(self, request: AddRequest, constraint: str | None) -> list[int]:
        """The token ids, EOS included. Raises Refused."""
        turn = next_turn(self.tokenizer.decode(request.prompt_token_ids))
        if constraint is None:
            return [*self.tokenizer.encode(turn, add_special_tokens=False), self._eos]
        try:
            return list(self._planned(turn, self.compiler.factory(constraint)))
        except Refused:
            if CALLS in turn:
                raise
            return list(self._anything(self.compiler.factory(constraint)))

    def _planned(self, turn: str, masks: TokenConstraint) -> Iterator[int]:
        at = 0
        for found in self.tokenizer.find_markers(turn):
            yield from self._text(turn[at : found.start()].encode(), masks)
            yield self._taken(self._special[found[0]], found[0], masks)
            at = found.end()
        yield from self._text(turn[at:].encode(), masks)
        self._check(self._allowed(masks), self._eos, "the end")
        yield self._eos

    def _text(self, rest: bytes, masks: TokenConstraint) -> Iterator[int]:
        while rest:
            allowed = self._allowed(masks)
            for token in self._by_start[rest[0]]:
                if allowed[token] and rest.startswith(self._bytes[token]):
                    break
            else:
                raise Refused(f"The mask forbids {rest[:60].decode(errors='replace')!r}.")
            masks.accept(token)
            yield token
            rest = rest[len(self._bytes[token]) :]

    def _taken(self, token: int, what: str, masks: TokenConstraint) -> int:
        self._check(self._allowed(masks), token, what)
        masks.accept(token)
        return token

    def _anything(self, masks: TokenConstraint) -> Iterator[int]:
        """Some answer under a constraint: what ends it soonest is taken first."""
        wanted = [self._eos] + [t for s in b'"]}{:,0 x' for t in reversed(self._by_start[s])]
        for _ in range(MAX_FREE):
            allowed = self._allowed(masks)
            token = next((token for token in wanted if allowed[token]), int(allowed.argmax()))
            yield token
            if token == self._eos:
                return
            masks.accept(token)
        raise Refused("No short answer was found.")

    def _allowed(self, masks: TokenConstraint) -> np.ndarray:
        row = np.full(-(-self.vocab_size // 32), -1, np.int32)
        masks.fill_bitmask(row)
        return np.unpackbits(row.view(np.uint8), bitorder="little")

    def _check(self, allowed: np.ndarray, token: int, what: str) -> None:
        if not allowed[token]:
            raise Refused(f"The mask forbids {what}.")


def main() -> None:
    launch = EngineLaunch.decode(sys.stdin.buffer.readline())
    end_with_parent()
    tokenizer = load_tokenizer(launch.tokenizer_dir)
    compiler = grammar_compiler(tokenizer, launch.config.model_dir, "llguidance", for_masks=True)
    planner = Planner(tokenizer, compiler, tokenizer.size)
    context = zmq.Context()
    commands, events = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    commands.connect(launch.command_address)
    events.connect(launch.event_address)

    def tell(event: EngineEvent) -> None:
        events.send(msgspec.msgpack.encode(event))

    tell(EngineReady(MAX_MODEL_LEN, 1000, 16, tokenizer.size, "none", "none"))
    decoder = msgspec.msgpack.Decoder(EngineCommand)
    held: dict[str, AddRequest] = {}
    while True:
        if not commands.poll(1000):
            tell(EngineIdle())
            continue
        match command := decoder.decode(commands.recv()):
            case AddRequest(held=True):
                held[command.request_id] = command
            case AddRequest():
                for output in _outputs(planner, command, command.constraint):
                    tell(output)
            case Release():
                for output in _outputs(planner, held.pop(command.request_id), command.constraint):
                    tell(output)
            case AbortRequests():
                for request_id in command.request_ids:
                    held.pop(request_id, None)
            case Shutdown():
                return


def _outputs(
    planner: Planner, request: AddRequest, constraint: str | None
) -> Iterator[StepOutputs]:
    stats = EngineStats(1, 0, 0.1)
    name = request.request_id
    try:
        tokens = planner.answer(request, constraint)
    except Refused as refused:
        output = TokenOutput(name, [], "error", error=str(refused))
        yield StepOutputs([output], stats)
        return
    for start in range(0, len(tokens), BURST):
        output = TokenOutput(name, tokens[start : start + BURST])
        if start + BURST >= len(tokens):
            output.finish_reason, output.stop_token_id = "stop", tokens[-1]
        yield StepOutputs([output], stats)
        time.sleep(STEP)


if __name__ == "__main__":
    main()
