"""What llguidance's own compiler makes of a schema allows the same bytes, at every place, as the
rules that the algebra writes. Only numbers that are no integers are spelled in other ways.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from llguidance import LLMatcher

from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.constrain.rules.grammar_builder import Spacing
from formgate.constrain.rules.json_schema import ReadSchemas, schema_grammar


def schema(r: Random, depth: int = 0) -> Any:
    kinds = ["string", "integer", "boolean", "enum", "format", "pattern"]
    kind = r.choice(kinds + ["object", "array", "anyOf", "ref"] * (3 if depth < 2 else 0))
    match kind:
        case "string":
            least = r.randint(0, 3)
            return {"type": "string", "minLength": least, "maxLength": least + r.randint(0, 3)}
        case "integer":
            least = r.randint(0, 120)  # llguidance writes -0, too
            return {"type": "integer", "minimum": least, "maximum": least + r.randint(0, 30)}
        case "enum":
            return {"enum": r.sample(["a", "ab", "é", None, True, "10"], r.randint(1, 4))}
        case "format":
            return {"type": "string", "format": r.choice(["date", "uuid", "ipv4", "time"])}
        case "pattern":
            made = {"type": "string", "pattern": r.choice(["^a+b?$", "^[0-9]{2,4}$", "x|^y"])}
            return made | r.choice([{}, {}, {"minLength": 3}, {"maxLength": 2}])
        case "object":
            names = r.sample(["a", "b", "long name", "ä"], r.randint(0, 3))
            patterns = r.sample(["^x-", "^[0-9]+$", "n{2}", "^a"], r.choice([0, 0, 1, 1, 2]))
            return {
                "type": "object",
                "properties": {name: schema(r, depth + 1) for name in names},
                "patternProperties": {pattern: schema(r, depth + 1) for pattern in patterns},
                "required": [name for name in names if r.random() < 0.5],
                "additionalProperties": r.choice([False, False, schema(r, 2)]),
            }
        case "array":
            least = r.randint(0, 2)
            items = {"type": "array", "items": schema(r, depth + 1), "minItems": least}
            return items | ({"maxItems": least + r.randint(0, 2)} if r.random() < 0.5 else {})
        case "anyOf":
            return {"anyOf": [schema(r, depth + 1) for _ in range(r.randint(1, 3))]}
        case "ref":
            return {"$ref": f"#/$defs/{r.choice('xy')}"}
    return {"type": kind}


def document(r: Random) -> Any:
    node = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "next": {"$ref": "#/$defs/y"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    return {"allOf": [schema(r)], "$defs": {"x": {"type": "string", "maxLength": 2}, "y": node}}


def matcher(made: Any, *, native: bool) -> tuple[LLMatcher, bool]:
    grammar = schema_grammar(made, Spacing(None), "json", native=native, read=ReadSchemas())
    source = "\n".join([f"start: {grammar.start}", *grammar.rules, ""])
    started = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(source), log_level=0)
    if not native:
        assert not started.is_error(), started.get_error()
    return started, grammar.native


def allowed(at: LLMatcher) -> list[int]:
    mask = at.compute_bitmask()
    # llguidance writes the control character DEL only as an escape.
    return [byte for byte in range(256) if byte != 0x7F and mask[byte >> 3] >> (byte & 7) & 1]


def walk(leader: LLMatcher, other: LLMatcher, r: Random) -> bytes:
    written = bytearray()
    while len(written) < 60:
        may, other_may = allowed(leader), allowed(other)
        assert may == other_may, (bytes(written), {*may} ^ {*other_may})
        assert leader.is_accepting() == other.is_accepting(), bytes(written)
        if not may or (leader.is_accepting() and r.random() < 0.3):
            break
        byte = (
            r.choice([b for b in may if b in b'"}],'] or may) if r.random() < 0.4 else r.choice(may)
        )
        written.append(byte)
        assert leader.consume_token(byte)
        assert other.consume_token(byte)
    return bytes(written)


@pytest.mark.parametrize("seed", range(120))
def test_native_rules_allow_what_the_algebra_does(seed: int) -> None:
    r = Random(seed)
    made = document(r)
    try:
        own, native = matcher(made, native=True)
    except ConstraintError:  # so the algebra's rules were asked for, and there are none
        with pytest.raises(ConstraintError, match="no value"):
            matcher(made, native=False)
        return
    if own.is_error() or not native:  # then the algebra's rules are taken
        return
    written, by_llguidance = matcher(made, native=False)
    assert not by_llguidance
    for _ in range(3):
        walk(own.deep_copy(), written.deep_copy(), r)


@pytest.mark.parametrize(
    ("made", "definitions"),
    [
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {}),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, {}),
        ({"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["a"]}, {}),
        ({"prefixItems": [{"$ref": "#"}], "type": "array", "minItems": 1}, {}),
        (
            {"$ref": "#/$defs/a"},
            {
                "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}}
                | {"required": ["b"]},
                "b": {"anyOf": [{"allOf": [{"$ref": "#/$defs/a"}]}, {"$ref": "#/$defs/b2"}]},
                "b2": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 2},
            },
        ),
    ],
)
def test_a_schema_that_must_hold_itself_has_no_value(made: Any, definitions: Any) -> None:
    with pytest.raises(ConstraintError, match="no value at all"):
        schema_grammar(
            made | {"$defs": definitions}, Spacing(), "json", native=True, read=ReadSchemas()
        )


@pytest.mark.parametrize("least", [0, 1])
def test_a_member_that_would_never_end_is_not_begun(least: int) -> None:
    endless = {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": least}
    made = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"const": 1}},
        "additionalProperties": False,
        "$defs": {"a": endless},
    }
    started, native = matcher(made, native=True)
    assert native == (least == 0)
    assert started.consume_tokens(list(b'{"'))
    assert allowed(started) == ([ord("y")] if least else [ord("x"), ord("y")])


def test_a_long_pattern_is_written_once() -> None:
    place = {"type": "string", "format": "uri"}
    made = {
        "type": "object",
        "properties": {"a": place, "b": {"type": "array", "items": place}, "c": {"anyOf": [place]}},
        "additionalProperties": place,
    }
    grammar = schema_grammar(made, Spacing(None), "json", native=True, read=ReadSchemas())
    assert grammar.native
    (rule,) = grammar.rules
    written = json.loads(rule.partition("%json ")[2])
    assert len(written["$defs"]) == 1
    assert rule.count('"pattern"') == 1
    assert written["properties"]["a"] == written["additionalProperties"] == {"$ref": "#/$defs/d0"}


def test_a_long_pattern_alone_is_no_reference() -> None:
    made = {"type": "string", "format": "uri", "minLength": 9}
    grammar = schema_grammar(made, Spacing(None), "json", native=True, read=ReadSchemas())
    assert "$ref" not in grammar.rules[0]
