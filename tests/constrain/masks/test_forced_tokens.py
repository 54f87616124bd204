"""What a grammar forces is said in the tokens that the tokenizer itself would write, whatever text
comes after: random texts of a grammar are tokenized whole, and at every token what is forced must
be what comes next.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from formgate import embedded
from formgate.constrain.compiler import GrammarCompiler
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.parsers.structural.tag import structural_tag_tree

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "date_of_birth": {"type": "string", "format": "date"},
        "occupation": {"enum": ["engineer", "engine driver", "teacher", "tea merchant"]},
        "scores": {"type": "array", "items": {"type": "integer", "maximum": 99999, "minimum": 0}},
    },
    "required": ["name", "date_of_birth", "occupation", "scores"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {
        "first_level": {
            "type": "object",
            "properties": {
                "second level": {"type": ["null", "boolean"]},
                "naïve 世界": {"const": 1},
            },
            "required": ["second level", "naïve 世界"],
            "additionalProperties": False,
        }
    },
    "required": ["first_level"],
    "additionalProperties": False,
}
CALL = structural_tag_tree(
    {
        "structures": [
            {"begin": "<function=get_weather>", "schema": PERSON, "end": "</function>"},
            {"begin": "<function=get_time>", "schema": NESTED, "end": "</function>"},
        ],
        "triggers": ["<function="],
    },
    {},
)
TREES: dict[str, Any] = {
    "object": {"kind": "json", "schema": PERSON},
    "nested": {"kind": "json", "schema": NESTED},
    "white space": {"kind": "json", "schema": PERSON, "whitespace_pattern": r"[ \n]{0,2}"},
    "unique": {
        "kind": "json",
        "schema": {
            "type": "array",
            "items": {"enum": ["one", "only", "once"]},
            "maxItems": 2,
            "uniqueItems": True,
        },
    },
    "regex": {
        "kind": "regex",
        "pattern": "(the same beginning )(of|off|often) [0-9]{1,3} times(, again)?",
    },
    "choice": {
        "kind": "choice",
        "items": [{"kind": "text", "value": v} for v in ("international", "internal", "intern")],
    },
    "grammar": {
        "kind": "lark",
        "source": 'root ::= "SELECT " [a-z]{1,5} " FROM table_" [12] (" WHERE x = 1")?',
    },
    "calls": CALL,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded.path())


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer.vocabulary(), padded_vocab_size=tokenizer.size)


def texts(masks, tree: Any, r: Random, count: int) -> list[str]:
    found: list[str] = []
    for _ in range(40 * count):
        try:
            text = masks.walk(tree, r)
        except UnicodeDecodeError:
            continue
        if text:
            found.append(text)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_forced_tokens_are_those_of_every_text(masks, tokenizer, compiler, tree) -> None:
    r = Random(5)
    grammar = compiler.compile(masks.spec(tree))
    written = texts(masks, tree, r, 30)
    if tree is CALL:  # a random walk hardly ever meets a trigger
        inner = texts(masks, {"kind": "json", "schema": NESTED}, r, 5)
        written += [f"Now <function=get_time>{text}</function> and" for text in inner]
    assert len(written) >= 5
    num_forced = 0
    for text in written:
        token_ids = tokenizer.encode_bytes(text.encode())
        assert b"".join(tokenizer.token_bytes[t] for t in token_ids) == text.encode()
        constraint = grammar.start()
        for place, token_id in enumerate(token_ids):
            forced = constraint.forced_tokens()
            there = token_ids[place : place + len(forced)]
            assert forced == there, (text, place, [tokenizer.token_bytes[t] for t in forced])
            num_forced += len(forced)
            constraint.accept(token_id)
        assert constraint.is_terminated() or constraint.forced_tokens() in ([], [eos_of(tokenizer)])
    assert num_forced > 0


def eos_of(tokenizer: Tokenizer) -> int:
    return next(iter(tokenizer.eos_ids))


def test_taking_what_is_forced_writes_the_tokenizers_own_tokens(masks, tokenizer, compiler) -> None:
    """As the engine does it: everything forced at once, the rest as the model would write it."""
    r = Random(9)
    grammar = compiler.compile(masks.spec(TREES["object"]))
    for text in texts(masks, TREES["object"], r, 30):
        expected = tokenizer.encode_bytes(text.encode())
        constraint = grammar.start()
        taken: list[int] = []
        while len(taken) < len(expected):
            run = constraint.forced_tokens() or [expected[len(taken)]]
            for token_id in run:
                constraint.accept(token_id)
            taken += run
        assert taken == expected
        assert json.loads(text)
