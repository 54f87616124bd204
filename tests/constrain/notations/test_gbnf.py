"""GBNF grammars: their texts and no others, whatever a lexer would have made of them."""

from __future__ import annotations

import json
from random import Random

import pytest

from formgate.constrain.errors import ConstraintError
from formgate.constrain.notations.gbnf import is_gbnf
from formgate.constrain.notations.gbnf_lark import gbnf_to_lark

JSON = r"""
# JSON, as llama.cpp's users write it
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = """
root ::= (expr "=" ws term "\\n")+
expr ::= term ([-+*/] term)*
term ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num ::= [0-9]+ ws
ws ::= [ \\t\\n]*
"""
PALINDROMES = 'root ::= "a" root "a" | "b" root "b" | "a" | "b" | ""'


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        ('root ::= word "ing"\nword ::= [a-z]+', ["running", "inging"], ["ing", "run"]),
        ('root ::= "zzz?" | [a-z]* "!"', ["zz!", "zzz?", "zzz!", "!"], ["zzz", "?"]),
        ('root ::= word root "." | word\nword ::= [a-z]+', ["a", "abc.", "abc.."], [".", "a."]),
        (PALINDROMES, ["", "a", "abba", "ababa"], ["ab", "aab"]),
        ('root ::= ("a" | "ab") ("c" | "bd")', ["ac", "abc", "abd", "abbd"], ["abbc", "a"]),
        ('root ::= [^"\\\\\\n]', ["é", "世", "]"], ['"', "\n", "ab", ""]),
        ('root ::= "\\u00e9\\x41\\U0001F600\\t"', ["éA😀\t"], ["eA"]),
        ("root ::= 'it' | '\"'", ["it", '"'], ["'it'"]),
        ('root ::= [a\\]^-]{2}', ["a]", "^-"], ["a", "ab"]),
        ('root ::= "a"{2,3} "b"{0} ("c" "d"){1,}', ["aacd", "aaacdcd"], ["acd", "aabcd", "aa"]),
        ('root ::= #first\n  "a" |\n  "b"\n  | "c"\nother ::= "d"', ["a", "b", "c"], ["d"]),
        ("root ::= . .", ["a\n", "世界"], ["a"]),
        ("my-root2 ::= [0-9]?\nroot ::= my-root2", ["", "5"], ["55"]),
        (ARITHMETIC, ["a=1\n", "(a +12)*b =c\n\n", "x=y\nz=1\n"], ["a=1", "=1\n", "a=(1\n"]),
        (JSON, ["{}", '{"a": [1, -2.5e3, "x\\n\\u00e9"], "b":{}}'], ["[]", '{"a": 01}', '{"a" 1}']),
    ],
)  # fmt: skip
def test_a_grammar_has_its_texts_and_no_others(
    masks, source: str, good: list[str], bad: list[str]
) -> None:
    tree = {"kind": "lark", "source": source}
    assert [text for text in good if not masks.accepts(tree, text)] == []
    assert [text for text in bad if masks.accepts(tree, text)] == []


def test_random_walks_of_the_json_grammar_are_json(longer_masks) -> None:
    texts = [
        longer_masks.walk({"kind": "lark", "source": JSON}, Random(seed), 300)
        for seed in range(60)
    ]  # fmt: skip
    ended = [text for text in texts if text is not None]
    assert len(ended) > 20
    for text in ended:
        assert isinstance(json.loads(text), dict), text


def test_random_walks_of_an_ambiguous_grammar_are_of_it(longer_masks) -> None:
    tree = {"kind": "lark", "source": 'root ::= word "ing" | "(" root ")"\nword ::= [gin]+'}
    texts = [longer_masks.walk(tree, Random(seed), 200) for seed in range(40)]
    ended = [text for text in texts if text is not None]
    assert len(ended) > 2
    for text in ended:
        assert text.count("(") == text.count(")")
        assert text.rstrip(")").endswith("ing")


def test_lexemes_are_kept_where_they_are_exact() -> None:
    """One lexeme a string and not one a character: what a large vocabulary's masks need."""
    terminals = [line for line in gbnf_to_lark(JSON).splitlines() if line.startswith("R_")]
    assert any("{0,}" in line for line in terminals)
    by_character = gbnf_to_lark(PALINDROMES)
    assert not any(line.startswith("R_") for line in by_character.splitlines())


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        ('root ::= "a', 1, "text is not closed"),
        ('root ::= "a"\n\nb ::= [a-', 3, r"'\[' is not closed"),
        ('root ::= ("a"\n', 1, r"'\(' is not closed"),
        ('root ::= "a" )', 1, r"'\)' is not expected"),
        ('root ::= x\n\n# x\n', 1, "no rule 'x'"),
        ('root ::= "a"\nroot ::= "b"', 2, "'root' is there already"),
        ('root ::= "a"\nb = "c"', 2, "'::=' is missing"),
        ('root ::= "a"\nb ::= "\\q"', 2, r"escape \\q"),
        ('root ::= "\\u12"', 1, "hexadecimal"),
        ('root ::= "\\uD800"', 1, "no character"),
        ("root ::= [z-a]", 1, "wrong way"),
        ("root ::= []", 1, "no character"),
        ('root ::= "a"{3,2}', 1, "less than"),
        ('root ::= "a"{x}', 1, "repetition"),
        ('root ::= "a"{1000000000}', 1, "at most"),
    ],
)  # fmt: skip
def test_an_error_says_line_and_reason(source: str, line: int, says: str) -> None:
    with pytest.raises(ConstraintError, match=f"line {line}: .*{says}") as refused:
        gbnf_to_lark(source)
    assert refused.value.code == "invalid_grammar"


def test_what_has_no_beginning_or_no_end_is_refused() -> None:
    with pytest.raises(ConstraintError, match="no rule 'root'"):
        gbnf_to_lark('start ::= "a"')
    with pytest.raises(ConstraintError, match="too deeply"):
        gbnf_to_lark("root ::= " + "(" * 5000 + '"a"' + ")" * 5000)
    with pytest.raises(ConstraintError, match="'root' never comes to an end"):
        gbnf_to_lark('root ::= "a" root')


def test_the_notation_is_told_by_its_rules() -> None:
    assert is_gbnf('  root ::= "a"')
    assert not is_gbnf('start: "::=" NAME\nNAME: /[a-z]+/')
    assert not is_gbnf('?start: "a"')
