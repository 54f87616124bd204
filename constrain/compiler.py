"""From the text of a constraint to token masks. Compiled grammars are shared and never change; what
a sequence needs is a copy of their first state.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llguidance import LLMatcher, LLParserLimits

from formgate.constrain.answer_tree import LarkGrammar, Node, to_lark
from formgate.constrain.distinct import GuardedConstraint, TokenBytes
from formgate.constrain.errors import ConstraintError
from formgate.constrain.fsm import CompiledFsm, FsmCompiler, FsmConstraint, regex_of
from formgate.constrain.guard_plan import GuardPlan
from formgate.constrain.matcher import GrammarConstraint
from formgate.constrain.vocabulary import Vocabulary


@dataclass(frozen=True)
class Limits:
    """What one constraint may cost."""

    max_spec_bytes: int = 2_000_000
    max_grammar_size: int = 500_000  # symbols in productions
    max_lexer_states: int = 100_000  # about 2 kB each
    initial_lexer_fuel: int = 1_000_000  # about 50,000 a millisecond
    step_max_items: int = 50_000  # about 20,000 a millisecond
    max_cached_bytes: int = 64_000_000  # of spec texts; a compiled grammar is some times larger

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


Backend = Literal["llguidance", "outlines"]


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
        self._token_bytes: TokenBytes | None = None
        self._mask_bytes = 4 * (-(-self._tokenizer.vocab_size // 32))
        self._fsm = FsmCompiler(vocabulary) if backend == "outlines" else None
        self._cache: OrderedDict[str, CompiledGrammar | CompiledFsm] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def check(self, spec_text: str) -> None:
        """Raises ConstraintError if the constraint cannot be enforced exactly."""
        self.compile(spec_text)

    def factory(self, spec_text: str) -> GrammarConstraint | GuardedConstraint | FsmConstraint:
        """A fresh constraint for one sequence."""
        return self.compile(spec_text).start()

    def compile(self, spec_text: str) -> CompiledGrammar | CompiledFsm:
        """Raises ConstraintError."""
        with self._lock:
            compiled = self._cache.get(spec_text)
            if compiled is not None:
                self._cache.move_to_end(spec_text)
                return compiled
        compiled = self._compile(spec_text)
        with self._lock:
            if spec_text not in self._cache:
                self._cache[spec_text] = compiled
                self._cached_bytes += len(spec_text)
            while self._cached_bytes > self._limits.max_cached_bytes and len(self._cache) > 1:
                dropped, _ = self._cache.popitem(last=False)
                self._cached_bytes -= len(dropped)
        return compiled

    def _compile(self, spec_text: str) -> CompiledGrammar | CompiledFsm:
        if len(spec_text) > self._limits.max_spec_bytes:
            raise ConstraintError(
                f"The constraint has {len(spec_text)} bytes; at most "
                f"{self._limits.max_spec_bytes} are allowed.",
                code="schema_too_complex",
            )
        try:
            tree = json.loads(spec_text)["tree"]
            if self._fsm is not None and (pattern := regex_of(tree)) is not None:
                return self._fsm.compile(pattern)
            matcher, lark = self._matcher(tree, native=True)
            if matcher.is_error() and lark.native:
                # The algebra takes more than llguidance's own JSON compiler, and says why not.
                matcher, lark = self._matcher(tree, native=False)
        except RecursionError:
            raise ConstraintError(
                "The constraint is nested too deeply.", code="schema_too_complex"
            ) from None
        if matcher.is_error():
            raise _refused(matcher.get_error())
        tokens = self._tokens() if lark.guards else None
        return CompiledGrammar(matcher, self._mask_bytes, lark.guards, tokens)

    def _matcher(self, tree: Node, *, native: bool) -> tuple[LLMatcher, LarkGrammar]:
        lark = to_lark(tree, self._vocabulary.token_bytes, native=native)
        grammar = LLMatcher.grammar_from_lark(lark.source)
        return (
            LLMatcher(self._tokenizer, grammar, limits=self._parser_limits, log_level=0),
            lark,
        )

    def _tokens(self) -> TokenBytes:
        with self._lock:
            if self._token_bytes is None:
                self._token_bytes = TokenBytes(self._vocabulary.token_bytes)
            return self._token_bytes


def _refused(message: str) -> ConstraintError:
    message = " ".join(message.split())[:300]
    if any(word in message for word in ("too large", "limit", "fuel", "too many")):
        return ConstraintError(
            f"The constraint is too complex: {message}", code="schema_too_complex"
        )
    return ConstraintError(f"The constraint is not valid: {message}", code="invalid_grammar")
