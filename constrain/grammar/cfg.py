"""A context-free grammar, and the removal of its unproductive alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rule:
    """A nonterminal, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Token:
    """A terminal, as Lark text: a literal or an expression. `holds`: a quick test of whether the
    terminal matches a whole text; False may be wrong.
    """

    text: str
    holds: Callable[[str], bool] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    parts: tuple[Symbol, ...]
    least: int
    most: int | None


Symbol = Rule | Token | Repeat
Sequence = tuple[Symbol, ...]


class Cfg:
    def __init__(self) -> None:
        self._rules: list[list[Sequence]] = []

    def __len__(self) -> int:
        return len(self._rules)

    def rule(self) -> Rule:
        self._rules.append([])
        return Rule(len(self._rules) - 1)

    def add(self, rule: Rule, sequence: Sequence) -> None:
        self._rules[rule.number].append(sequence)

    def alternatives(self, rule: Rule) -> list[Sequence]:
        return self._rules[rule.number]

    def prune(self) -> None:
        """Remove every alternative that derives no text."""
        productive = self._productive()
        for number, sequences in enumerate(self._rules):
            if any(not _is_plain(sequence, productive) for sequence in sequences):
                self._rules[number] = [
                    tuple(symbol for symbol in sequence if _comes(symbol, productive))
                    for sequence in sequences
                    if _yields(sequence, productive)
                ]

    def _productive(self) -> set[int]:
        """The rules that derive some text, in linear time."""
        productive: set[int] = set()
        lacking: list[int] = []  # by alternative: number of needed rules not known as productive
        owners: list[int] = []
        users: dict[int, list[int]] = {}  # alternatives, by the rules that they need
        found: list[int] = []
        for number, sequences in enumerate(self._rules):
            for sequence in sequences:
                needed = set(needed_rules(sequence))
                for rule in needed:
                    users.setdefault(rule, []).append(len(owners))
                owners.append(number)
                lacking.append(len(needed))
                if not needed:
                    found.append(number)
        while found:
            number = found.pop()
            if number in productive:
                continue
            productive.add(number)
            for alternative in users.get(number, ()):
                lacking[alternative] -= 1
                if not lacking[alternative]:
                    found.append(owners[alternative])
        return productive


def rules_in(sequence: Sequence) -> Iterator[int]:
    """The numbers of the rules in a sequence, including those in repetitions."""
    for symbol in sequence:
        if isinstance(symbol, Rule):
            yield symbol.number
        elif isinstance(symbol, Repeat):
            yield from rules_in(symbol.parts)


def needed_rules(sequence: Sequence) -> Iterator[int]:
    """The rules that must be productive for a sequence to be."""
    for symbol in sequence:
        if isinstance(symbol, Rule):
            yield symbol.number
        elif isinstance(symbol, Repeat) and symbol.least:
            yield from needed_rules(symbol.parts)


def _is_plain(sequence: Sequence, productive: set[int]) -> bool:
    """True only if the sequence has nothing to remove."""
    return all(
        symbol.number in productive if isinstance(symbol, Rule) else isinstance(symbol, Token)
        for symbol in sequence
    )


def _yields(sequence: Sequence, productive: set[int]) -> bool:
    return all(number in productive for number in needed_rules(sequence))


def _comes(symbol: Symbol, productive: set[int]) -> bool:
    """False for a repetition that can only be empty."""
    return not isinstance(symbol, Repeat) or (
        symbol.most != 0 and _yields(symbol.parts, productive)
    )
