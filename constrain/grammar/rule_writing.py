"""Writes a context-free grammar in llguidance's Lark dialect, with few rules: each rule costs the
parser time when the grammar is read and at each token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from formgate.constrain.grammar.cfg import Cfg, Repeat, Rule, Sequence, Symbol, Token, rules_in
from formgate.constrain.grammar.rule_merging import equivalent_rules


def lark_rules(cfg: Cfg, start: Rule, name: str) -> tuple[str, list[str]]:
    """The name of the start rule, and the rules that it needs, each a line of Lark. Names of rules
    and terminals begin with `name`. The grammar must be pruned.
    """
    return _RuleWriter(cfg, start, name).written()


class _RuleWriter:
    def __init__(self, cfg: Cfg, start: Rule, name: str) -> None:
        self._name = name
        self._start = start
        self._terminals: dict[str, str] = {}
        self._rules = _needed(cfg, start)
        self._stand_ins = {
            number: Rule(other) for number, other in equivalent_rules(self._rules).items()
        }
        self._uses = Counter(
            self._stand_ins[used].number
            for number, sequences in self._rules.items()
            if self._stand_ins[number].number == number
            for sequence in sequences
            for used in rules_in(sequence)
        )

    def written(self) -> tuple[str, list[str]]:
        first = self._stand_ins[self._start.number].number
        self._uses[first] += 2
        self._waiting = [first]
        self._seen = {first}
        # The list grows while it is iterated.
        lines = [
            f"{self._rule(number)}: " + " | ".join(map(self._sequence, self._alternatives(number)))
            for number in self._waiting
        ]
        lines += [f"{name}: {text}" for text, name in self._terminals.items()]
        return self._rule(first), lines

    def _alternatives(self, number: int) -> Iterator[Sequence]:
        """The alternatives of a rule. A rule that is used only as one of them is inlined."""
        waiting = [iter(self._rules[number])]
        while waiting:
            sequence = next(waiting[-1], None)
            if sequence is None:
                waiting.pop()
            elif len(sequence) == 1 and (only := self._only_here(sequence[0])) is not None:
                waiting.append(iter(self._rules[only]))
            else:
                yield sequence

    def _only_here(self, symbol: Symbol) -> int | None:
        if not isinstance(symbol, Rule):
            return None
        number = self._stand_ins[symbol.number].number
        return number if self._uses[number] == 1 else None

    def _sequence(self, sequence: Sequence) -> str:
        return " ".join(map(self._symbol, sequence)) or '""'

    def _symbol(self, symbol: Symbol) -> str:
        match symbol:
            case Rule():
                number = self._stand_ins[symbol.number].number
                if number not in self._seen:
                    self._seen.add(number)
                    self._waiting.append(number)
                return self._rule(number)
            case Token(text):
                if text.startswith('"'):
                    return text
                if text.startswith("%"):
                    return self._named(text, self._name + "_leaf")
                return self._named(text, self._name.upper() + "_T")
            case Repeat(parts, least, most):
                times = f"{{{least},{'' if most is None else most}}}"
                return f"({self._sequence(parts)}){times}"

    def _rule(self, number: int) -> str:
        return f"{self._name}_{number}"

    def _named(self, text: str, name: str) -> str:
        return self._terminals.setdefault(text, f"{name}{len(self._terminals)}")


def _needed(cfg: Cfg, start: Rule) -> dict[int, list[Sequence]]:
    """The rules that `start` needs. A rule that is a single symbol is replaced by the symbol."""
    known: dict[int, Symbol] = {}

    def plain(symbol: Symbol) -> Symbol:
        if isinstance(symbol, Repeat):
            return Repeat(tuple(map(plain, symbol.parts)), symbol.least, symbol.most)
        if not isinstance(symbol, Rule):
            return symbol
        found = known.get(symbol.number)
        if found is None:
            # Terminates: in a pruned grammar, no rule is only itself.
            found = symbol
            while isinstance(found, Rule) and (only := _only_symbol(cfg, found)) is not None:
                found = only
            known[symbol.number] = found
        return found

    rules: dict[int, list[Sequence]] = {}
    waiting = [start.number]
    while waiting:
        number = waiting.pop()
        if number in rules:
            continue
        rules[number] = [tuple(map(plain, sequence)) for sequence in cfg.alternatives(Rule(number))]
        for sequence in rules[number]:
            waiting += rules_in(sequence)
    return rules


def _only_symbol(cfg: Cfg, rule: Rule) -> Symbol | None:
    sequences = cfg.alternatives(rule)
    if len(sequences) != 1 or len(sequences[0]) != 1 or isinstance(sequences[0][0], Repeat):
        return None
    return sequences[0][0]
