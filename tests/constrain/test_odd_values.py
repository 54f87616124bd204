"""Odd names, texts and numbers in every spelling: what the mask lets through is valid to every
reader, and every valid value has a spelling that passes.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from formgate.constrain.answer_check import AnswerCheck
from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.validate import validate_json

ODD = [
    *("", "a", "b", "\x00", "\x1f", "\x7f", "\x80", '"', "\\", "/", "\b", "\f", "\n", "\r", "\t"),
    *("\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff", "\ue000", "\U0010ffff"),
    *("é", "e\u0301", "😀"),
    *("\\u0041", "\\ud83d", "__proto__", "$ref", "%", "~1", " ", "ﬀ", "İ", "ß", "0", "null"),
]
TEXTS = st.one_of(
    st.sampled_from(ODD),
    st.lists(st.sampled_from(ODD), max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.sampled_from(["a" * 300, "\x00" * 20, "😀" * 30]),
)
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from(
        [0.0, -0.0, 1.0, 0.1, 1.5, 1e2, 1e21, 1e-7, 2**53, 2**53 + 1, 10**30, -(2**63)]
    ),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)
SETTINGS = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
    part = st.one_of(
        st.just({}),
        VALUES.map(lambda value: {"const": value}),
        st.sampled_from([{"type": "string"}, {"type": "number"}, {"type": "integer"}]),
        st.sampled_from([{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 2}]),
    )
    kind = draw(st.sampled_from(["const", "enum", "unique", "closed", "open", "pattern", "not"]))
    if kind == "const":
        return {"const": draw(VALUES)}
    if kind == "enum":
        return {"enum": draw(st.lists(VALUES, min_size=1, max_size=4))}
    if kind == "unique":
        return {"type": "array", "uniqueItems": True, "items": draw(part)}
    if kind == "not":
        return {"type": "string", "not": {"enum": names}}
    members = {name: draw(part) for name in names}
    required = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    if kind == "pattern":
        # No class on which Python and ECMA-262 differ, as `validate_json` is Python's.
        patterns = ["^.$", "^[^a]*$", "^[A-Za-z0-9_]+$", "^ ", r"\\", "^\\u0000"]
        pattern = draw(st.sampled_from(patterns))
        return {
            "type": "object",
            "patternProperties": {pattern: draw(part)},
            "additionalProperties": draw(st.sampled_from([False, {"type": "null"}])),
        }
    rest = {"additionalProperties": False} if kind == "closed" else {}
    return {"type": "object", "properties": members, "required": required, **rest}


def instances(schema: dict[str, Any], r: Random, pool: list[Any]) -> Any:
    """A value that is likely valid, or nearly so."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return r.choice(schema["enum"])
    match schema.get("type"):
        case "array":
            return [instances(schema["items"], r, pool) for _ in range(r.randint(0, 3))]
        case "object":
            members = schema.get("properties", {})
            required = schema.get("required", ())
            value = {
                name: instances(member, r, pool)
                for name, member in members.items()
                if name in required or r.random() < 0.6
            }
            names = [one for one in pool if isinstance(one, str)]
            if names and r.random() < 0.6:
                (part,) = schema.get("patternProperties", {"": {}}).values()
                value.setdefault(r.choice(names), instances(part, r, pool))
            return value
        case "string":
            return r.choice([one for one in pool if isinstance(one, str)] or ["x"])
        case "number" | "integer":
            return r.choice([one for one in pool if type(one) in (int, float)] or [1])
    return r.choice(pool)


SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def plain_string(text: str) -> str:
    """The spelling without needless escapes."""
    parts = (SHORT.get(one) or (one if one >= " " else f"\\u{ord(one):04x}") for one in text)
    return f'"{"".join(parts)}"'


def odd_string(text: str, r: Random) -> str:
    return f'"{"".join(_odd_character(one, r) for one in text)}"'


def _odd_character(one: str, r: Random) -> str:
    units = one.encode("utf-16-be")
    escaped = "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
    ways = [escaped, re.sub("[a-f]", lambda found: found[0].upper(), escaped), SHORT.get(one)]
    ways += ["\\/"] if one == "/" else []
    ways += [one] * 4 if one not in '"\\' and one >= " " else []
    return r.choice([way for way in ways if way is not None])


def plain_number(value: float) -> str:
    """As a mask writes a constant: 0.0 as 0."""
    value = value or abs(value)
    return json.dumps(int(value) if float(value).is_integer() else value)


def odd_number(value: float, r: Random) -> str:
    text = json.dumps(value)
    if "e" in text or "." in text:
        return r.choice([text, text.upper(), text.replace("e-0", "e-"), text.replace("+", "")])
    right = [f"{text}.0", f"{text}e0", f"{text}.00E+0", f"{text}0e-1"]
    return r.choice([text] * 4 + right + [f"0{text}", f"+{text}", f"{text}.", f"{text}e"])


def spelled(value: Any, r: Random | None) -> str:
    """Spelled in some way; without `r`, in the plain one."""
    if isinstance(value, str):
        return plain_string(value) if r is None else odd_string(value, r)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return plain_number(value) if r is None else odd_number(value, r)
    if isinstance(value, list):
        return f"[{', '.join(spelled(one, r) for one in value)}]"
    members = [(spelled(name, r), spelled(one, r)) for name, one in value.items()]
    if r is not None and members and r.random() < 0.2:
        members.append((spelled(r.choice(list(value)), r), r.choice(members)[1]))
    return f"{{{', '.join(f'{name}: {one}' for name, one in members)}}}"


class _Repeated(Exception):
    pass


def _strictly(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise _Repeated
    return dict(pairs)


def wrong(text: str, schema: Any) -> str | None:
    """Why some reader refuses the text."""
    try:
        json.loads(text, object_pairs_hook=_strictly)
    except _Repeated:
        return "a name stands twice"
    except ValueError:
        return "not JSON"
    return validate_json(text, schema) or AnswerCheck(json.dumps(schema)).failure(text)


@SETTINGS
@given(schema=schemas(), pool=st.lists(VALUES, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_spelling_that_passes_is_valid(masks, schema: Any, pool: list[Any], seed: int) -> None:
    r = Random(seed)
    tree = {"kind": "json", "schema": schema}
    try:
        masks.compiler.compile(masks.spec(tree))
    except ConstraintError:
        assume(False)
    for _ in range(6):
        value = instances(schema, r, pool)
        text = spelled(value, r)
        plain = spelled(value, None)
        fault = wrong(text, schema)
        if masks.accepts(tree, text):
            assert fault is None, (text, fault)
        if isinstance(value, str) and wrong(plain, schema) is None:
            # llguidance's own rules escape DEL, ours do not.
            ways = {plain, plain.replace("\x7f", "\\u007f")}
            assert any(masks.accepts(tree, way) for way in ways), plain


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "json", "schema": {"const": "a\ud800"}},
        {"kind": "json", "schema": {"enum": ["a", "\udfff"]}},
        {"kind": "json", "schema": {"type": "object", "properties": {"\ud83d": {}}}},
        {"kind": "regex", "pattern": "\ud83d+"},
        {"kind": "choice", "choices": ["a", "\ude00"]},
    ],
)
def test_half_a_character_is_refused_in_words(masks, tree: dict[str, Any]) -> None:
    with pytest.raises(ConstraintError, match=r"U\+D[0-9A-F]{3}, which is half of a character"):
        masks.start(tree)


@pytest.mark.parametrize("name", ["\x7f", "a\x7fb", "\x1f\x7f"])
def test_names_with_del(masks, name: str) -> None:
    """One spelling in open objects, and one in others."""
    opened = {"kind": "json", "schema": {"type": "object"}}
    closed = {
        "kind": "json",
        "schema": {"type": "object", "properties": {name: {}}, "additionalProperties": False},
    }
    escaped = json.dumps({name: 1}).replace("\x7f", "\\u007f")
    raw = f"{{{plain_string(name)}: 1}}"
    for tree, one, other in ((opened, escaped, raw), (closed, raw, escaped)):
        assert masks.accepts(tree, one)
        assert not masks.accepts(tree, other)
    assert not masks.accepts(opened, escaped.replace("7f", "7F"))
    twice = escaped[:-1] + ", " + escaped[1:]
    assert not masks.accepts(opened, twice)


@SETTINGS
@given(schema=schemas(), seed=st.integers(0, 99))
def test_walks_are_valid(masks, schema: Any, seed: int) -> None:
    tree = {"kind": "json", "schema": schema}
    try:
        text = masks.walk(tree, Random(seed))
    except ConstraintError:
        assume(False)
    if text is not None:
        assert wrong(text, schema) is None, text
