"""The shortest text of a grammar, and how large its largest part must at least be. Knuth, "A
Generalization of Dijkstra's Algorithm" (1977), by relaxation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from formgate.constrain.cfg import Cfg, Repeat, Rule, Sequence, Symbol, Token, rules_in
from formgate.constrain.witness import longest_rest, witnesses

_MOST_ENDINGS = 64
_LOOKS = 300  # beginnings of one terminal that are looked at one by one
_LONGEST = 2_000  # bytes of one terminal that are looked for


@dataclass(frozen=True, slots=True)
class Shortest:
    text: str
    largest_part: int  # bytes that one choice more may cost at the most
    endings: tuple[str, ...] = ()  # of strings: what stands behind the opening quote


def shortest(cfg: Cfg, start: Rule) -> Shortest:
    """Of a grammar that has been pruned. Whole terminals are as short as a walk finds them."""
    texts: dict[int, str] = {}
    users: dict[int, set[int]] = {}
    for number in range(len(cfg)):
        for sequence in cfg.alternatives(Rule(number)):
            for used in rules_in(sequence):
                users.setdefault(used, set()).add(number)
    waiting = list(range(len(cfg)))
    while waiting:
        number = waiting.pop()
        found = min(
            (
                text
                for sequence in cfg.alternatives(Rule(number))
                if (text := _text(sequence, texts)) is not None
            ),
            key=len,
            default=None,
        )
        if found is not None and (number not in texts or len(found) < len(texts[number])):
            texts[number] = found
            waiting += users.get(number, ())
    return Shortest(
        texts.get(start.number, ""),
        _largest_part(cfg, texts),
        _endings(cfg),
    )


def _largest_part(cfg: Cfg, texts: dict[int, str]) -> int:
    """What a token may add to the way to the end. It may settle which way a rule goes, that of a
    rule within it, and which way is left in a terminal.
    """
    ways = [0, 0]
    rest = 0
    for number in range(len(cfg)):
        alternatives = list(cfg.alternatives(Rule(number)))
        lengths = [len((_text(sequence, texts) or "").encode()) for sequence in alternatives]
        ways.append(max(lengths, default=0) - min(lengths, default=0))
        for sequence in alternatives:
            ways += (len((_text(parts, texts) or "").encode()) for parts in _repeated_in(sequence))
            for terminal in _terminals_in(sequence):
                rest = max(rest, longest_rest(terminal))
    return sum(sorted(ways)[-2:]) + rest


def _endings(cfg: Cfg) -> tuple[str, ...]:
    """What strings under a pattern may end with, whatever stands before it. Nothing in a mask tells
    of it as long as anything else may come.
    """
    found: dict[str, None] = {}
    for number in range(len(cfg)):
        for sequence in cfg.alternatives(Rule(number)):
            for terminal in _terminals_in(sequence):
                if terminal[0] not in "/(":
                    continue
                for text in (terminal_text(terminal) or "", *witnesses(terminal)):
                    if len(text) > 2 and text.startswith('"') and text.endswith('"'):
                        found[text[1:]] = None
                    elif text[:1].isdigit():
                        found[text + "]"] = None  # the last item of an array
    return tuple(sorted(found, key=len)[:_MOST_ENDINGS])


def _terminals_in(sequence: Sequence) -> Iterator[str]:
    for symbol in sequence:
        if isinstance(symbol, Token):
            yield symbol.text
        elif isinstance(symbol, Repeat):
            yield from _terminals_in(symbol.parts)


def _repeated_in(sequence: Sequence) -> Iterator[Sequence]:
    for symbol in sequence:
        if isinstance(symbol, Repeat):
            yield symbol.parts
            yield from _repeated_in(symbol.parts)


def _text(sequence: Sequence, texts: dict[int, str]) -> str | None:
    parts = [_symbol_text(symbol, texts) for symbol in sequence]
    known = [part for part in parts if part is not None]
    return "".join(known) if len(known) == len(parts) else None


def _symbol_text(symbol: Symbol, texts: dict[int, str]) -> str | None:
    match symbol:
        case Rule(number):
            return texts.get(number)
        case Token(text):
            return terminal_text(text)
        case Repeat(parts, least, _):
            if least == 0:
                return ""
            part = _text(parts, texts)
            return None if part is None else part * least


@lru_cache(maxsize=1 << 12)
def terminal_text(terminal: str) -> str | None:
    """A short text of a terminal, or of a `%json` rule."""
    if terminal.startswith('"') and terminal.endswith('"') and "&" not in terminal:
        try:
            text: str = json.loads(terminal)
        except ValueError:
            pass
        else:
            return text
    rule = f"start: {terminal}\n" if terminal[0] == "%" else f"start: T\nT: {terminal}\n"
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(rule), log_level=0)
    for candidate in witnesses(terminal):
        tokens = list(candidate.encode())
        there = matcher.deep_copy()
        if there.consume_tokens(tokens) and there.is_accepting():
            return candidate
    return _nearest(matcher) or _walked(matcher)


@lru_cache(maxsize=1)
def byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def _nearest(matcher: LLMatcher) -> str | None:
    """The shortest text, if it is found among the first few that are looked at."""
    level = [(b"", matcher)]
    looks = _LOOKS
    while level:
        longer = []
        for text, there in level:
            mask = there.compute_bitmask()
            for byte in range(256):
                if not mask[byte >> 3] >> (byte & 7) & 1:
                    continue
                looks -= 1
                if looks < 0:
                    return None
                behind = there.deep_copy()
                behind.consume_token(byte)
                if behind.is_accepting():
                    return (text + bytes((byte,))).decode("utf-8", "replace")
                longer.append((text + bytes((byte,)), behind))
        level = longer
    return None


def _walked(matcher: LLMatcher) -> str | None:
    """What the masks lead to."""
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
    """Which byte to try first on the way to the end of a string: its end, then plain characters,
    each as often as the others, so that no loop of a regex holds the walk for ever.
    """
    if byte == 0x22 and written:
        return (0, 0, 0)
    plain = 0 if 0x30 <= byte <= 0x39 or 0x61 <= byte <= 0x7A else 1
    return (1, used[byte] + 4 * plain, byte)
