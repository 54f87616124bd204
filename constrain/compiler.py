"""From the text of a constraint to token masks. Compiled grammars are shared and never change; what
a sequence needs is a copy of their first state.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from llguidance import LLMatcher, LLParserLimits

from formgate.constrain.answer_size import shortest_answer
from formgate.constrain.answer_tree import LarkGrammar, to_lark
from formgate.constrain.closing import Budget, ClosingConstraint, Ways
from formgate.constrain.distinct import GuardedConstraint, TokenBytes
from formgate.constrain.errors import ConstraintError
from formgate.constrain.fsm import CompiledFsm, FsmCompiler, FsmConstraint, regex_of
from formgate.constrain.grammar_cache import GrammarCache
from formgate.constrain.guard_plan import GuardPlan
from formgate.constrain.matcher import GrammarConstraint
from formgate.constrain.shortest import Shortest
from formgate.constrain.vocabulary import Vocabulary

Constraint = GrammarConstraint | GuardedConstraint | FsmConstraint | ClosingConstraint
Backend = Literal["llguidance", "outlines"]

# What a compiled grammar takes beside its text, measured: bytes for each byte of its Lark source.
_BYTES_PER_SOURCE_BYTE = 25


@dataclass(frozen=True)
class Limits:
    """What one constraint may cost."""

    max_spec_bytes: int = 2_000_000
    max_grammar_size: int = 500_000  # symbols in productions
    max_lexer_states: int = 100_000  # about 2 kB each
    initial_lexer_fuel: int = 1_000_000  # about 50,000 a millisecond
    step_max_items: int = 50_000  # about 20,000 a millisecond
    max_cached_bytes: int = 200_000_000

    def for_parser(self) -> LLParserLimits:
        return LLParserLimits(
            max_grammar_size=self.max_grammar_size,
            max_lexer_states=self.max_lexer_states,
            initial_lexer_fuel=self.initial_lexer_fuel,
            step_max_items=self.step_max_items,
            verbose_errors=False,
        )


class CompiledGrammar:
    """The first state of a grammar, shared by every sequence that is under it."""

    def __init__(
        self,
        matcher: LLMatcher,
        mask_bytes: int,
        guards: Sequence[tuple[bytes, GuardPlan]] = (),
        tokens: TokenBytes | None = None,
    ) -> None:
        self._matcher = matcher
        self._mask_bytes = mask_bytes
        self._guards = guards
        self._tokens = tokens
        self._lock = threading.Lock()  # the matcher may not be borrowed twice at once

    def start(self) -> GrammarConstraint | GuardedConstraint:
        with self._lock:
            matcher = self._matcher.deep_copy()
        constraint = GrammarConstraint(matcher, self._mask_bytes)
        if self._tokens is None:
            return constraint
        return GuardedConstraint(constraint, matcher, self._tokens, self._guards)


class GrammarCompiler:
    """Thread-safe. `padded_vocab_size` is the number of logits, at least the vocabulary's size.
    With the backend "outlines", regular constraints are compiled to Outlines' index; all others
    stay with llguidance.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        padded_vocab_size: int,
        limits: Limits | None = None,
        backend: Backend = "llguidance",
    ) -> None:
        assert padded_vocab_size >= len(vocabulary.token_bytes)
        self._limits = limits or Limits()
        self._parser_limits = self._limits.for_parser()
        self._vocabulary = vocabulary
        self._tokenizer = vocabulary.ll_tokenizer()
        self._mask_bytes = 4 * (-(-self._tokenizer.vocab_size // 32))
        self._fsm = FsmCompiler(vocabulary) if backend == "outlines" else None
        self._grammars = GrammarCache[CompiledGrammar](self._limits.max_cached_bytes)
        self._indexes = GrammarCache[CompiledFsm](self._limits.max_cached_bytes)
        self._sizes = GrammarCache[Shortest](self._limits.max_cached_bytes // 10)

    def check(self, spec_text: str) -> None:
        """Raises ConstraintError if the constraint cannot be enforced exactly."""
        self.compile(spec_text)

    def factory(self, spec_text: str) -> Constraint:
        """A fresh constraint for one sequence. A spec that begins with the line `close N` ends
        within N tokens. Raises ConstraintError.
        """
        head, newline, rest = spec_text.partition("\n")
        if not newline:
            return self.compile(spec_text).start()
        budget = Budget(int(head.removeprefix("close ")), self.shortest(rest).largest_part)
        return ClosingConstraint(self._grammar(rest).start(), self._ways, budget)

    def compile(self, spec_text: str) -> CompiledGrammar | CompiledFsm:
        """Raises ConstraintError."""
        if self._fsm is not None:
            index = self._indexes.get(spec_text)
            if index is None and (pattern := regex_of(self._tree(spec_text))) is not None:
                index = self._fsm.compile(pattern)
                self._indexes.put(spec_text, index, 0)
            if index is not None:
                return index
        return self._grammar(spec_text)

    def shortest(self, spec_text: str) -> Shortest:
        """The shortest answer under a constraint. Raises ConstraintError."""
        size = self._sizes.get(spec_text)
        if size is None:
            try:
                size = shortest_answer(self._tree(spec_text), self._vocabulary.token_bytes)
            except RecursionError:
                raise _too_deep() from None
            self._sizes.put(spec_text, size, len(size.text))
        return size

    def num_tokens(self, text: str) -> int:
        """How many tokens the tokenizer writes a text in."""
        return len(self._tokenizer.tokenize_str(text))

    def _grammar(self, spec_text: str) -> CompiledGrammar:
        grammar = self._grammars.get(spec_text)
        if grammar is None:
            tree = self._tree(spec_text)
            try:
                matcher, lark = self._matcher(tree, native=True)
                if matcher.is_error() and lark.native:
                    # The algebra takes more than llguidance's own compiler, and says why not.
                    matcher, lark = self._matcher(tree, native=False)
            except RecursionError:
                raise _too_deep() from None
            if matcher.is_error():
                raise _refused(matcher.get_error())
            tokens = self._tokens if lark.guards else None
            grammar = CompiledGrammar(matcher, self._mask_bytes, lark.guards, tokens)
            size = _BYTES_PER_SOURCE_BYTE * len(lark.source)
            self._grammars.put(spec_text, grammar, size)
        return grammar

    def _tree(self, spec_text: str) -> Any:
        if len(spec_text) > self._limits.max_spec_bytes:
            raise ConstraintError(
                f"The constraint has {len(spec_text)} bytes; at most "
                f"{self._limits.max_spec_bytes} are allowed.",
                code="schema_too_complex",
            )
        try:
            return json.loads(spec_text)["tree"]
        except RecursionError:
            raise _too_deep() from None

    def _matcher(self, tree: Any, *, native: bool) -> tuple[LLMatcher, LarkGrammar]:
        lark = to_lark(tree, self._vocabulary.token_bytes, native=native)
        grammar = LLMatcher.grammar_from_lark(lark.source)
        limits = self._parser_limits
        return LLMatcher(self._tokenizer, grammar, limits=limits, log_level=0), lark

    @cached_property
    def _tokens(self) -> TokenBytes:
        return TokenBytes(self._vocabulary.token_bytes)

    @cached_property
    def _ways(self) -> Ways:
        vocabulary = self._vocabulary
        return Ways(vocabulary.token_bytes, vocabulary.special_ids, vocabulary.eos_ids)


def _too_deep() -> ConstraintError:
    return ConstraintError("The constraint is nested too deeply.", code="schema_too_complex")


def _refused(message: str) -> ConstraintError:
    message = " ".join(message.split())[:300]
    if any(word in message for word in ("too large", "limit", "fuel", "too many")):
        return ConstraintError(
            f"The constraint is too complex: {message}", code="schema_too_complex"
        )
    return ConstraintError(f"The constraint is not valid: {message}", code="invalid_grammar")
