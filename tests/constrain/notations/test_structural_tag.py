"""Structural tags in both forms: what comes out is what they say, and what they cannot be held to
is refused at its place.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest

from formgate.parsers.structural.fields import StructuralTagError
from formgate.parsers.structural.tag import structural_tag_tree

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
LEGACY = {
    "structures": [
        {"begin": "<f=one>", "schema": SCHEMA, "end": "</f>"},
        {"begin": "<f=two>", "schema": {"type": "boolean"}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}
JSON = {"type": "json_schema", "json_schema": SCHEMA}


def tag(begin: str, content: Any, end: str) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def const(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def regex(pattern: str) -> dict[str, Any]:
    return {"type": "regex", "pattern": pattern}


def seq(*elements: Any) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}


def triggered(**more: Any) -> dict[str, Any]:
    tags = [tag("<f=one>", JSON, "</f>"), tag("<f=two>", regex("[a-z]+"), "</f>")]
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": tags, **more}


def tree(value: Any, special_ids: dict[str, int] | None = None) -> Any:
    if "type" in value:
        value = {"type": "structural_tag", "format": value}
    return structural_tag_tree(value, special_ids or {})


ANY = {"type": "any_text"}
ONE, TWO = '<f=one>{"a": 1}</f>', "<f=two>abc</f>"
CASES = [
    (LEGACY, ["", "text", "a <f b", ONE, f"x{ONE}y<f=two>true</f>z<f"],
     ["<f=", "x<f=y", "<f=one>", '<f=one>{"a": 100}</f>', "<f=three>1</f>", f"{ONE}<f=a"]),
    (triggered(), ["", "text", f"a{ONE}{TWO}b"], ["<f=two>1</f>", "<f=one>abc</f>"]),
    (triggered(at_least_one=True), [ONE, f"{TWO} then {ONE} end"], ["", f"a{ONE}"]),
    (triggered(stop_after_first=True), ["", "text", f"a{ONE}"], [f"{ONE}a", ONE + TWO]),
    (triggered(at_least_one=True, stop_after_first=True), [ONE, TWO], ["", f"a{ONE}", f"{ONE}a"]),
    (triggered(excludes=["bad"]), ["good", f"ba{ONE}d"], ["a bad b", f"{ONE}bad"]),
    (tag("<t>", ANY, "</t>"), ["<t></t>", "<t>a < b</t>"], ["<t>", "<t>a</t>b", "<t></t></t>"]),
    (tag("<t>", {**ANY, "excluded_str": ["no"]}, "</t>"), ["<t>yes</t>"], ["<t>no</t>"]),
    (tag("<t>", triggered(), "</t>"),
     ["<t></t>", f"<t>a{ONE}b</t>", f"<t>{ONE}{TWO}</t>"], ["<t><f=</t>", "<t>a</t>b"]),
    (tag("<t>", triggered(stop_after_first=True), "</t>"),
     ["<t>a</t>", f"<t>a{ONE}</t>"], [f"<t>{ONE}a</t>"]),
    (seq(tag("<think>", ANY, "</think>"), triggered()),
     ["<think>hm</think>", f"<think>a<f=b</think>text{TWO}"], ["", "<think>", "a"]),
    (seq(regex("[a-z]+"), const("ing"), regex("[0-9]*")), ["running", "xing12"], ["ing", "run"]),
    (seq(const("a"), const("b")), ["ab"], ["a"]),
    ({"type": "or", "elements": [const("yes"), regex("n[o]+"), JSON]},
     ["yes", "nooo", '{"a": 5}'], ["", "yesno", "n"]),
    (tag("[", {"type": "or", "elements": [const("x"), regex("[a-z0-9]{2,}"), ANY]}, "]"),
     ["[x]", "[ab]", "[?]"], ["[x", "[x]]"]),
    ({"type": "tags_with_separator", "tags": triggered()["tags"], "separator": ", "},
     ["", ONE, f"{ONE}, {TWO}, {ONE}"], [f"{ONE}{TWO}", f"{ONE}, ", f"{ONE},{TWO}"]),
    ({"type": "tags_with_separator", "tags": triggered()["tags"], "separator": ";",
      "at_least_one": True, "stop_after_first": True}, [ONE, TWO], ["", f"{ONE};{TWO}"]),
    (regex("a|b"), ["a", "b"], ["ab", ""]),
    (const('q"/\n'), ['q"/\n'], ["q"]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "good", "bad"), CASES)
def test_what_a_tag_allows(masks, value: Any, good: list[str], bad: list[str]) -> None:
    made = tree(value)
    assert [text for text in good if not masks.accepts(made, text)] == []
    assert [text for text in bad if masks.accepts(made, text)] == []


@pytest.mark.parametrize("value", [LEGACY, triggered()], ids=["legacy", "format"])
def test_random_walks_hold_tags_and_no_trigger_elsewhere(longer_masks, value: Any) -> None:
    """The end of a walk is a text that a reader who knows only the rule can take apart."""
    made, r, seen = tree(value), Random(5), 0
    one = re.compile(r'<f=one>(\{"a": \d+\})</f>|<f=two>(true|false|[a-z]+)</f>')
    for _ in range(150):
        text = free_walk(longer_masks, made, r)
        for found in one.finditer(text):
            seen += 1
            if found[1]:
                assert 0 <= json.loads(found[1])["a"] <= 99
        assert "<f=" not in one.sub("\0", text)
    assert seen > 100


def free_walk(masks, made: Any, r: Random, limit: int = 80) -> str:
    """Random tokens that try to begin a tag now and then; it ends where it may, after `limit`."""
    constraint = masks.start(made)
    written: list[bytes] = []
    trying = b""
    while True:
        allowed = masks.allowed(constraint)
        assert allowed, b"".join(written)
        if masks.EOS in allowed and len(written) > limit:
            return b"".join(written).decode("utf-8", "replace")
        if not trying and r.random() < 0.3:
            trying = r.choice([b"<f=", b"<f", b"</f>"])
        if trying and trying[0] in allowed:
            pick, trying = trying[0], trying[1:]
        else:
            letters = [t for t in sorted(allowed) if 32 <= t < 127 or len(token(masks, t)) > 1]
            pick, trying = r.choice([t for t in letters if t != masks.EOS] or sorted(allowed)), b""
        constraint.accept(pick)
        written.append(token(masks, pick))


def token(masks, token_id: int) -> bytes:
    found: bytes = masks.vocabulary.token_bytes[token_id]
    return found


def test_special_tokens_are_matched_by_id(masks) -> None:
    special = {"<mark>": masks.MARKER}
    made = tree({"type": "triggered_tags", "triggers": ["<mark>"],
                 "tags": [tag("<mark>x", JSON, "<mark>")]}, special)  # fmt: skip
    call = [masks.MARKER, *b'x{"a": 1}', masks.MARKER]
    assert masks.accepts(made, [*b"text", *call, *b"more", *call])
    assert not masks.accepts(made, [*b"text", masks.MARKER, *b"more"])
    assert not masks.accepts(made, b"text <mark>".decode()), "its characters are no free text"
    think = tree(seq(tag("", ANY, "\n<mark>"), const("end")), special)
    assert masks.accepts(think, [*b"hm\n\n", masks.MARKER, *b"end"])
    assert not masks.accepts(think, [*b"hm", masks.MARKER, *b"end"])
    numbers = tree(seq(regex("[0-9]+"), const("<mark>"), regex("[a-z]")), special)
    assert masks.accepts(numbers, [*b"12", masks.MARKER, *b"b"])


def test_items_that_must_differ_do_so_inside_a_tag(masks) -> None:
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}
    made = tree({"structures": [{"begin": "<f>", "schema": schema, "end": "</f>"}],
                 "triggers": ["<f"]})  # fmt: skip
    assert masks.accepts(made, 'text<f>["a", "b"]</f> <f>["b"]</f>')
    assert not masks.accepts(made, 'text<f>["a", "a"]</f>')
    assert not masks.accepts(made, '<f>["a"]</f><f>["b", "b"]</f>')


@pytest.mark.parametrize(
    ("value", "pointer", "says"),
    [
        ([], "", "object"),
        ("{", "", "valid JSON"),
        ({"type": "structural_tag"}, "/structures", "missing"),
        ({"structures": [], "triggers": ["a"]}, "/structures", "non-empty"),
        ({**LEGACY, "triggers": [""]}, "/triggers/0", "not empty"),
        ({**LEGACY, "triggers": ["<f", "<f="]}, "/triggers", "hold one another"),
        ({**LEGACY, "triggers": ["<g"]}, "/structures/0/begin", "none of the triggers"),
        ({**LEGACY, "format": {}}, "", "both"),
        ({"structures": [{"begin": "a", "end": "b"}], "triggers": ["a"]},
         "/structures/0/schema", "missing"),
        ({"format": {}}, "/format/type", "missing"),
        ({"format": {"type": "qwen_xml_parameter"}}, "/format/type", "'qwen_xml_parameter'"),
        ({"format": {**const("a"), "more": 1}}, "/format/more", "not supported"),
        ({"format": const(1)}, "/format/value", "string"),  # type: ignore[arg-type]
        ({"format": seq(ANY, ANY)}, "/format/elements/0", "fixed text"),
        ({"format": seq(regex("a"), JSON)}, "/format/elements/0/pattern", "fixed text"),
        ({"format": tag("a", {"type": "grammar", "grammar": 'start: "a"'}, "b")},
         "/format/content/grammar", "ends with it"),
        ({"format": seq({"type": "json_schema", "json_schema": {}}, const("1"))},
         "/format/elements/0/json_schema", "number"),
        ({"format": tag("a", {"type": "json_schema"}, "b")},
         "/format/content/json_schema", "missing"),
        ({"format": tag("a", triggered(), "<f=")}, "/format/content/triggers", "hold one another"),
        ({"format": triggered(at_least_one=1)}, "/format/at_least_one", "true or false"),
        ({"format": {**tag("a", ANY, "b"), "end": ["b", "c"]}}, "/format/end", "several"),
    ],
)  # fmt: skip
def test_a_bad_tag_is_refused_at_its_place(value: Any, pointer: str, says: str) -> None:
    with pytest.raises(StructuralTagError, match=says) as refused:
        structural_tag_tree(value, {})
    assert refused.value.pointer == pointer


def test_a_trigger_may_not_cut_a_special_token() -> None:
    value = {"structures": [{"begin": "<mark>", "schema": {}, "end": "x"}], "triggers": ["<ma"]}
    with pytest.raises(StructuralTagError, match="cuts"):
        structural_tag_tree(value, {"<mark>": 3})


def test_nesting_without_end_is_refused() -> None:
    value: Any = ANY
    for _ in range(5000):
        value = {"type": "sequence", "elements": [value]}
    with pytest.raises(StructuralTagError, match="deep"):
        structural_tag_tree({"format": value}, {})
