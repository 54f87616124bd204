"""Rules that write the same become one, and the grammar keeps its texts."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import pytest
from llguidance import LLMatcher

from formgate.constrain.grammar.cfg import Cfg, Repeat, Rule, Sequence, Token
from formgate.constrain.grammar.rule_merging import equivalent_rules
from formgate.constrain.grammar.rule_writing import lark_rules
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.constrain.rules.grammar_builder import Spacing
from formgate.constrain.rules.json_schema import ReadSchemas, schema_grammar

A, B = Token('"a"'), Token('"b"')


def _lark(cfg: Cfg, start: Rule) -> str:
    cfg.prune()
    name, lines = lark_rules(cfg, start, "x")
    return "\n".join([f"start: {name}", *lines, ""])


def test_rules_that_hold_themselves_are_found_alike() -> None:
    one, two, other = Rule(0), Rule(1), Rule(2)
    rules: dict[int, list[Sequence]] = {
        0: [(A, two), ()],
        1: [(A, one), ()],
        2: [(A, other), (B,)],
    }
    same = equivalent_rules(rules)
    assert same[0] == same[1]
    assert same[2] == 2


def test_a_difference_far_behind_tells_rules_apart() -> None:
    length = 50
    rules: dict[int, list[Sequence]] = {}
    for first, last in ((0, A), (100, B), (200, A)):
        for at in range(length):
            rules[first + at] = [(A, Rule(first + at + 1))]
        rules[first + length] = [(last,)]
    same = equivalent_rules(rules)
    assert all(same[at] == same[200 + at] for at in range(length + 1))
    assert all(same[at] != same[100 + at] for at in range(length + 1))


def _random_rules(r: Random) -> dict[int, list[Sequence]]:
    symbols = [A, B, *(Rule(number) for number in range(8)), Repeat((Rule(3),), 0, 1)]
    return {
        number: [tuple(r.choices(symbols, k=r.randint(0, 2))) for _ in range(r.randint(1, 2))]
        for number in range(8)
    }


def _form(sequence: Sequence, group: dict[int, int]) -> tuple[object, ...]:
    return tuple(
        group[symbol.number]
        if isinstance(symbol, Rule)
        else (_form(symbol.parts, group), symbol.most)
        if isinstance(symbol, Repeat)
        else symbol.text
        for symbol in sequence
    )


@pytest.mark.parametrize("seed", range(200))
def test_groups_are_the_coarsest(seed: int) -> None:
    """Against refinement as one would write it down first."""
    rules = _random_rules(Random(seed))
    group = dict.fromkeys(rules, 0)
    for _ in rules:
        forms = {
            number: (group[number], *(_form(sequence, group) for sequence in sequences))
            for number, sequences in rules.items()
        }
        numbers = {form: at for at, form in enumerate(dict.fromkeys(forms.values()))}
        group = {number: numbers[form] for number, form in forms.items()}
    same = equivalent_rules(rules)
    assert all((same[a] == same[b]) == (group[a] == group[b]) for a, b in product(rules, rules))


@pytest.mark.parametrize("seed", range(60))
def test_the_texts_stay_the_same(seed: int) -> None:
    """Short texts of random grammars without left recursion, by hand and by the parser."""
    r = Random(seed)
    cfg = Cfg()
    rules = [cfg.rule() for _ in range(6)]
    for at, rule in enumerate(rules):
        for _ in range(r.randint(1, 3)):
            later = [*rules[at + 1 :], A, B]
            tail: Sequence = r.choice([(), (r.choice(later),), (r.choice([A, B]), r.choice(rules))])
            cfg.add(rule, tail if r.random() < 0.3 else (r.choice(later), *tail))
    texts = _texts(cfg, rules[0], 4)
    if not texts:
        return
    lark = _lark(cfg, rules[0])
    for size in range(5):
        for text in map("".join, product("ab", repeat=size)):
            assert (text in texts) == _takes(lark, text), (lark, text)


def _texts(cfg: Cfg, start: Rule, longest: int) -> set[str]:
    found: dict[int, set[str]] = {number: set() for number in range(len(cfg))}
    for _ in range(40):
        for number in found:
            for sequence in cfg.alternatives(Rule(number)):
                ways = {""}
                for symbol in sequence:
                    assert not isinstance(symbol, Repeat)
                    own = found[symbol.number] if isinstance(symbol, Rule) else {symbol.text[1]}
                    ways = {w + o for w in ways for o in own if len(w + o) <= longest}
                found[number] |= ways
    return found[start.number]


def _takes(lark: str, text: str) -> bool:
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(lark), log_level=0)
    tokens = list(text.encode())
    return bool(matcher.consume_tokens(tokens) if tokens else True) and bool(matcher.is_accepting())


def test_first_members_are_one_rule() -> None:
    cfg = Cfg()
    first, second, third = cfg.rule(), cfg.rule(), cfg.rule()
    cfg.add(first, (A, third))
    cfg.add(first, (second,))
    cfg.add(second, (B, third))
    cfg.add(second, ())
    cfg.add(third, (A,))
    cfg.add(third, (B,))
    _, lines = lark_rules(cfg, first, "x")
    assert lines == ['x_0: "a" x_2 | "b" x_2 | ""', 'x_2: "a" | "b"']


def test_what_comes_to_the_same_is_written_once() -> None:
    """Members under two schemas at once, in either order, and each of them a string at last."""
    names = [f"k{at}" for at in range(20)]
    strings: Any = {"properties": {name: {"type": "string"} for name in names}}
    others: Any = {"patternProperties": {"^k": {"type": ["string", "null"]}}}
    schema = {
        "type": "object",
        "properties": {
            "one": {"allOf": [strings, others], "type": "object"},
            "two": {"allOf": [others, strings], "type": "object"},
        },
        "additionalProperties": False,
        "not": {"required": ["one", "two"]},
    }
    grammar = schema_grammar(schema, Spacing(), "x", native=False, read=ReadSchemas())
    objects = [rule for rule in grammar.rules if '"{" ' in rule]
    assert len(objects) < 5
    assert len(grammar.rules) < 2 * len(names)
