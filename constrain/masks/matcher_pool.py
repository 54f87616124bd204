"""A compiled grammar for many concurrent sequences. Copies of one matcher share its lexer, whose
cached states make later masks fast, but only one thread may use a lexer at a time. So a grammar
with many sequences has several matchers.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from llguidance import LLMatcher

from formgate.constrain.library_errors import is_limit, refused
from formgate.constrain.masks.blueprint import Guards
from formgate.constrain.masks.json_starts import JsonStarts
from formgate.constrain.masks.matcher import GrammarConstraint, Lexer
from formgate.constrain.masks.names import NameGuard
from formgate.constrain.masks.sibling_guard import GuardedConstraint

SHARING = 4  # sequences per matcher before another one is built
MOST_MATCHERS = 16
QUICK = 0.03  # seconds: only a matcher that builds faster is built again
# A lexer never frees its states, so it is replaced after this many sequences.
MOST_USES = 512


class _Original(Lexer):
    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher
        self.running = 0
        self.uses = 0


class CompiledGrammar:
    """Thread-safe. `build` makes a new matcher, and releases the GIL."""

    def __init__(
        self,
        build: Callable[[], LLMatcher],
        mask_bytes: int,
        guards: Guards = (),
        names: NameGuard | None = None,
    ) -> None:
        started = time.perf_counter()
        self.first = build()
        self._is_quick = time.perf_counter() - started < QUICK
        self._build = build
        self._mask_bytes = mask_bytes
        self._guards = guards
        self._starts = JsonStarts(guards)
        self._names = names
        self._originals = [_Original(self.first)]
        self._lock = threading.Lock()  # a matcher must not be used by two threads at once

    @property
    def guarded(self) -> bool:
        """True if a guard enforces more than names that differ."""
        return any(plan.places for _, plan in self._guards)

    def check(self) -> None:
        """Raises ConstraintError if the grammar is refused, allows no first token, or exceeds a
        limit within the text that every answer begins with.
        """
        with self._lock:
            matcher = self.first if self.first.is_error() else self.first.deep_copy()
        if not matcher.is_error():
            matcher.consume_tokens(matcher.compute_ff_tokens())
            matcher.compute_ff_bytes()
        if matcher.is_error():
            raise refused(matcher.get_error())

    def takes(self, tokens: list[int]) -> bool:
        """Whether these tokens are a whole text of the grammar."""
        original = self._original()
        with self._lock:
            matcher = original.matcher.deep_copy()
        taken = bool(matcher.consume_tokens(tokens) and matcher.is_accepting())
        original.exhausted |= is_limit(matcher.get_error())
        return taken

    def start(self) -> GrammarConstraint | GuardedConstraint:
        original = self._original()
        with self._lock:
            original.uses += 1
            original.running += 1
            matcher = original.matcher.deep_copy()
        constraint = GrammarConstraint(matcher, self._mask_bytes, original)
        weakref.finalize(constraint, self._ended, original).atexit = False
        if self._names is None:
            return constraint
        return GuardedConstraint(constraint, self._names, self._starts)

    def _original(self) -> _Original:
        with self._lock:
            self._originals = [one for one in self._originals if not one.exhausted]
            if self._originals and self._originals[0].uses >= MOST_USES:
                self._originals.pop(0)
            found = min(self._originals, key=lambda one: one.running, default=None)
            full = found is not None and found.running >= SHARING
            if found is not None and not (
                full and self._is_quick and len(self._originals) < MOST_MATCHERS
            ):
                return found
        built = _Original(self._build())
        with self._lock:
            self._originals.append(built)
        return built

    def _ended(self, original: _Original) -> None:
        # Without the lock, as the garbage collector may run this while the thread holds it. A
        # count that is once off by one does no harm.
        original.running -= 1
