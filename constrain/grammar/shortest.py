"""The shortest text of a grammar, by Knuth, "A Generalization of Dijkstra's Algorithm" (1977), and
how much one more token can lengthen the shortest text from a state of the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush, nlargest

from llguidance import LLMatcher, LLTokenizer

from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.cfg import Cfg, Repeat, Rule, Sequence, Token, needed_rules
from formgate.constrain.grammar.terminal_samples import longest_suffix, sample_texts

_MOST_ENDINGS = 64
_LOOKS = 300  # prefixes of one terminal's texts that are visited
_LONGEST = 2_000  # bytes of one terminal's text
_MOST_BYTES = 10_000_000  # of a whole text

_Length = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shortest:
    text: str
    largest_part: int  # bytes by which one more token may lengthen the shortest completion
    endings: tuple[str, ...] = ()  # texts after the opening quote that complete patterned strings


def shortest(cfg: Cfg, start: Rule) -> Shortest:
    """The shortest text of a pruned grammar. Terminals count with the shortest text that
    `token_text` finds. Raises ConstraintError beyond `_MOST_BYTES`.
    """
    terminals = {
        token.text: token
        for number in range(len(cfg))
        for sequence in cfg.alternatives(Rule(number))
        for token in _tokens_in(sequence)
    }
    texts = {text: token_text(token) for text, token in terminals.items()}
    lengths = _Lengths(cfg, texts)
    if (size := lengths.size(start.number)) > _MOST_BYTES:
        raise ConstraintError(
            f"The shortest answer that the constraint allows has {size} bytes. Lower its minimum "
            "lengths and numbers of items.",
            code="schema_too_complex",
        )
    rest = max(map(longest_suffix, terminals), default=0)
    return Shortest(
        lengths.text(start.number), _largest_choice(cfg, lengths) + rest, _endings(texts)
    )


def token_text(token: Token) -> str | None:
    if token.holds is not None:
        for candidate in sample_texts(token.text):
            if token.holds(candidate):
                return candidate
    return terminal_text(token.text)


class _Lengths:
    """The length of each rule's shortest text, in characters and in bytes; characters are compared.
    Rules are settled in the order of these lengths, each by an alternative whose rules are settled.
    """

    def __init__(self, cfg: Cfg, texts: Mapping[str, str | None]) -> None:
        self._texts = texts  # of the terminals
        self._of_terminals = {
            terminal: (len(text), len(text.encode()))
            for terminal, text in texts.items()
            if text is not None
        }
        self._settled: dict[int, tuple[_Length, Sequence]] = {}
        self.alternatives: list[list[_Length | None]] = []  # of each rule; None if none is known
        self._settle(cfg)

    def _settle(self, cfg: Cfg) -> None:
        alternatives: list[tuple[int, int, Sequence]] = []
        lacking: list[int] = []  # by alternative: number of its rules that are not settled
        users: dict[int, list[int]] = {}  # alternatives, by the rules that they need
        waiting: list[tuple[_Length, int]] = []
        for number in range(len(cfg)):
            sequences = cfg.alternatives(Rule(number))
            self.alternatives.append([None] * len(sequences))
            for place, sequence in enumerate(sequences):
                at = len(alternatives)
                alternatives.append((number, place, sequence))
                needed = set(needed_rules(sequence))
                lacking.append(len(needed))
                for used in needed:
                    users.setdefault(used, []).append(at)
                if not needed:
                    self._measure(at, alternatives[at], waiting)
        while waiting:
            length, at = heappop(waiting)
            number, _, sequence = alternatives[at]
            if number in self._settled:
                continue
            self._settled[number] = length, sequence
            for user in users.get(number, ()):
                lacking[user] -= 1
                if not lacking[user]:
                    self._measure(user, alternatives[user], waiting)

    def _measure(
        self, at: int, alternative: tuple[int, int, Sequence], waiting: list[tuple[_Length, int]]
    ) -> None:
        number, place, sequence = alternative
        length = self.of(sequence)
        if length is not None:
            self.alternatives[number][place] = length
            heappush(waiting, (length, at))

    def of(self, sequence: Sequence) -> _Length | None:
        """The length of a sequence's shortest text; None if no text is known."""
        chars = size = 0
        for symbol in sequence:
            part: _Length | None
            match symbol:
                case Rule(number):
                    settled = self._settled.get(number)
                    part, times = settled and settled[0], 1
                case Token(text):
                    part, times = self._of_terminals.get(text), 1
                case Repeat(parts, least, _):
                    part, times = self.of(parts) if least else (0, 0), least
            if part is None:
                return None
            chars, size = chars + part[0] * times, size + part[1] * times
        return chars, size

    def size(self, start: int) -> int:
        """Number of bytes of a rule's shortest text."""
        settled = self._settled.get(start)
        return 0 if settled is None else settled[0][1]

    def text(self, start: int) -> str:
        if start not in self._settled:
            return ""
        needed = {start}
        waiting = [start]
        while waiting:
            _, sequence = self._settled[waiting.pop()]
            new = set(needed_rules(sequence)) - needed
            needed |= new
            waiting += new
        texts: dict[int, str] = {}
        for number, (_, sequence) in self._settled.items():
            if number in needed:
                texts[number] = self._written(sequence, texts)
        return texts[start]

    def _written(self, sequence: Sequence, texts: dict[int, str]) -> str:
        written = []
        for symbol in sequence:
            match symbol:
                case Rule(number):
                    written.append(texts[number])
                case Token(text):
                    written.append(self._texts[text] or "")
                case Repeat(parts, least, _) if least:
                    written.append(self._written(parts, texts) * least)
        return "".join(written)


def _largest_choice(cfg: Cfg, lengths: _Lengths) -> int:
    """Bytes by which one token may lengthen the shortest completion, besides the suffix of its
    terminal. It may decide the alternative of a rule, and that of a rule inside of it.
    """
    ways = [0, 0]
    for number, measured in enumerate(lengths.alternatives):
        if len(measured) > 1:
            sizes = [_size(length) for length in measured]
            ways.append(max(sizes) - min(sizes))
        for sequence in cfg.alternatives(Rule(number)):
            ways += (_size(lengths.of(parts)) for parts in _repeated_in(sequence))
    return sum(nlargest(2, ways))


def _size(length: _Length | None) -> int:
    return 0 if length is None else length[1]


def _endings(texts: Mapping[str, str | None]) -> tuple[str, ...]:
    """Texts that complete patterned strings and numbers, the shortest first. A mask does not reveal
    them while other characters are allowed too.
    """
    found: dict[str, None] = {}
    for terminal, short in texts.items():
        if terminal[0] not in "/(":
            continue
        for text in (short or "", *sample_texts(terminal)):
            if len(text) > 2 and text.startswith('"') and text.endswith('"'):
                found[text[1:]] = None
            elif text[:1].isdigit():
                found[text + "]"] = None  # the last item of an array
    return tuple(sorted(found, key=len)[:_MOST_ENDINGS])


def _tokens_in(sequence: Sequence) -> Iterator[Token]:
    for symbol in sequence:
        if isinstance(symbol, Token):
            yield symbol
        elif isinstance(symbol, Repeat):
            yield from _tokens_in(symbol.parts)


def _repeated_in(sequence: Sequence) -> Iterator[Sequence]:
    for symbol in sequence:
        if isinstance(symbol, Repeat):
            yield symbol.parts
            yield from _repeated_in(symbol.parts)


@lru_cache(maxsize=1 << 12)
def terminal_text(terminal: str) -> str | None:
    """A short text of a terminal, or of a `%json` rule; None if none is found."""
    if terminal.startswith('"') and terminal.endswith('"'):
        try:
            text: str = json.loads(terminal)
        except ValueError:
            pass
        else:
            return text
    rule = f"start: {terminal}\n" if terminal[0] == "%" else f"start: T\nT: {terminal}\n"
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(rule), log_level=0)
    plain = sample_texts(terminal)
    # A pattern that excludes all plain strings may leave those with a line break: `.` matches none.
    for candidate in (*plain, *map(_with_line_break, plain)):
        tokens = list(candidate.encode())
        state = matcher.deep_copy()
        if state.consume_tokens(tokens) and state.is_accepting():
            return candidate
    return _nearest(matcher) or _walked(matcher)


def _with_line_break(text: str) -> str:
    before, quote, after = text.rpartition('"')
    return f"{before}\\n{quote}{after}" if quote else text


@lru_cache(maxsize=1)
def byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def _nearest(matcher: LLMatcher) -> str | None:
    """The shortest text, by breadth-first search over `_LOOKS` prefixes; None if it is longer."""
    level = [(b"", matcher)]
    looks = _LOOKS
    while level:
        longer = []
        for text, state in level:
            mask = state.compute_bitmask()
            for byte in range(256):
                if not mask[byte >> 3] >> (byte & 7) & 1:
                    continue
                looks -= 1
                if looks < 0:
                    return None
                next_matcher = state.deep_copy()
                next_matcher.consume_token(byte)
                if next_matcher.is_accepting():
                    return (text + bytes((byte,))).decode("utf-8", "replace")
                longer.append((text + bytes((byte,)), next_matcher))
        level = longer
    return None


def _walked(matcher: LLMatcher) -> str | None:
    """A text by a greedy walk along the masks; None if it does not end within `_LONGEST` bytes."""
    written = bytearray()
    used = [0] * 256
    while not matcher.is_accepting() and len(written) < _LONGEST:
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if not allowed:
            return None
        byte = min(allowed, key=lambda byte: ending_order(byte, used, written))
        used[byte] += 1
        written.append(byte)
        if not matcher.consume_token(byte):
            return None
    return written.decode("utf-8", "replace") if matcher.is_accepting() else None


def ending_order(byte: int, used: list[int], written: bytes | bytearray) -> tuple[int, int, int]:
    """Sort key of the next byte of a walk to the end of a string: the closing quote, then plain
    characters. Bytes are used evenly, so that the walk leaves the loops of a regex.
    """
    if byte == 0x22 and written:
        return (0, 0, 0)
    plain = 0 if 0x30 <= byte <= 0x39 or 0x61 <= byte <= 0x7A else 1
    return (1, used[byte] + 4 * plain, byte)
