"""Structural tags as masks: random walks are read back by a reader that knows nothing of grammars,
and texts that a tag forbids are not let through.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import jsonschema
import pytest

from formgate.parsers.structural.fields import StructuralTagError
from formgate.parsers.structural.tag import structural_tag_tree


class Reader:
    """Every place where a format that begins at a place of a text may end, by trying them all."""

    def __init__(self, text: str) -> None:
        self.text = text

    def ends(self, form: dict[str, Any], start: int) -> set[int]:
        text = self.text
        rest = range(start, len(text) + 1)
        match form["type"]:
            case "const_string":
                return (
                    {start + len(form["value"])} if text.startswith(form["value"], start) else set()
                )
            case "json_schema":
                return {e for e in rest if self.is_valid(text[start:e], form["json_schema"])}
            case "regex":
                return {e for e in rest if re.fullmatch(form["pattern"], text[start:e], re.DOTALL)}
            case "any_text":
                without = form.get("excludes", ())
                return {e for e in rest if not any(x in text[start:e] for x in without)}
            case "sequence":
                here = {start}
                for element in form["elements"]:
                    here = {e for at in here for e in self.ends(element, at)}
                return here
            case "or":
                return {e for element in form["elements"] for e in self.ends(element, start)}
            case "tag":
                return self.tag_ends(form, start)
            case "tags_with_separator":
                return self.separated(form, start)
            case "triggered_tags":
                return self.triggered(form, start)
        raise AssertionError(form)

    @staticmethod
    def is_valid(text: str, schema: Any) -> bool:
        try:
            jsonschema.validate(json.loads(text), schema)
        except (ValueError, jsonschema.ValidationError):
            return False
        return text == text.strip()

    def tag_ends(self, tag: dict[str, Any], start: int) -> set[int]:
        if not self.text.startswith(tag["begin"], start):
            return set()
        last = [tag["end"]] if isinstance(tag["end"], str) else tag["end"]
        inside = self.ends(tag["content"], start + len(tag["begin"]))
        return {at + len(end) for at in inside for end in last if self.text.startswith(end, at)}

    def one_tag(self, form: dict[str, Any], start: int) -> set[int]:
        return {e for tag in form["tags"] for e in self.tag_ends(tag, start)}

    def separated(self, form: dict[str, Any], start: int) -> set[int]:
        found = set() if form.get("at_least_one") else {start}
        new = self.one_tag(form, start)
        while new:
            found |= new
            if form.get("stop_after_first"):
                break
            separator = form["separator"]
            new = {
                e
                for at in new
                if self.text.startswith(separator, at)
                for e in self.one_tag(form, at + len(separator))
            } - found
        return found

    def triggered(self, form: dict[str, Any], start: int) -> set[int]:
        found: set[int] = set()
        waiting = [(start, bool(form.get("at_least_one")))]
        seen = set(waiting)
        while waiting:
            at, must = waiting.pop()
            if not must:
                found |= {
                    e
                    for e in range(at, len(self.text) + 1)
                    if not any(trigger in self.text[at:e] for trigger in form["triggers"])
                }
            begins = [at] if must else self.triggers_from(form, at)
            after = {e for begin in begins for e in self.one_tag(form, begin)}
            if form.get("stop_after_first"):
                found |= after
                continue
            new = {(e, False) for e in after} - seen
            seen |= new
            waiting += new
        return found

    def triggers_from(self, form: dict[str, Any], at: int) -> list[int]:
        found = [self.text.find(trigger, at) for trigger in form["triggers"]]
        return [min(place for place in found if place >= 0)] if max(found) >= 0 else []


def is_of(form: dict[str, Any], text: str) -> bool:
    return len(text) in Reader(text).ends(form, 0)


def tag(begin: str, content: dict[str, Any], end: str | list[str]) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": value}


def const(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def regex(pattern: str) -> dict[str, Any]:
    return {"type": "regex", "pattern": pattern}


ANY = {"type": "any_text"}
INTEGER = schema({"type": "integer"})
PAIR = schema(
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "</f>"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
)
SET = schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": True})
CALLS = {
    "type": "triggered_tags",
    "triggers": ["<f=", "[["],
    "tags": [
        tag("<f=one>", PAIR, "</f>"),
        tag("<f=two>", SET, "</f>"),
        tag("[[", regex("[a-z]+"), "]]"),
    ],
}
TWO = [tag("<a>", INTEGER, "</a>"), tag("<b>", PAIR, "\n</b>")]

FORMATS: dict[str, dict[str, Any]] = {
    "calls": CALLS,
    "calls, at least one": {**CALLS, "at_least_one": True},
    "calls, one at most": {**CALLS, "stop_after_first": True},
    "calls, one": {**CALLS, "at_least_one": True, "stop_after_first": True},
    "calls in a tag": tag("<all>", CALLS, "</all>"),
    "a call, and more text": {
        "type": "sequence",
        "elements": [{**CALLS, "at_least_one": True, "stop_after_first": True}, const("!"), ANY],
    },
    "thoughts before calls": {
        "type": "sequence",
        "elements": [tag("<think>", ANY, "</think>"), CALLS],
    },
    "text without": {"type": "any_text", "excludes": ["ab", "bc"]},
    "text without, in a tag": tag("<", {"type": "any_text", "excludes": ["ab"]}, ">"),
    "list of tags": {"type": "tags_with_separator", "tags": TWO, "separator": "\n"},
    "list of tags in a tag": tag(
        "[",
        {"type": "tags_with_separator", "tags": TWO, "separator": ", ", "at_least_one": True},
        "]",
    ),
    "one of a list of tags": {
        "type": "tags_with_separator",
        "tags": TWO,
        "separator": ", ",
        "stop_after_first": True,
    },
    "no separator": {"type": "tags_with_separator", "tags": TWO, "separator": ""},
    "a regex that runs into its neighbours": {
        "type": "sequence",
        "elements": [
            regex("a*"),
            const("ab"),
            {"type": "or", "elements": [const("b"), regex("b*c")]},
        ],
    },
    "a regex before JSON": {
        "type": "sequence",
        "elements": [regex("[a-z ]*"), const(": "), PAIR, const(".")],
    },
    "either": {"type": "or", "elements": [PAIR, tag("<a>", INTEGER, "</a>"), const("nothing")]},
    "a regex that could run on": tag("<x>", regex(".*"), "</x>"),
    "deep": tag("<o>", tag("<i>", tag("<j>", INTEGER, "</j>"), "</i>"), "</o>"),
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_what_the_masks_let_through_is_of_the_format(masks, longer_masks, form) -> None:
    tree = structural_tag_tree({"type": "structural_tag", "format": form}, {})
    r = Random(11)
    texts: set[str] = set()
    for vocabulary in (masks, longer_masks):
        walks = (steered_walk(vocabulary, tree, form, r) for _ in range(60))
        texts |= {text for text in walks if text is not None}
    assert len(texts) >= 5
    for text in texts:
        assert is_of(form, text), text


def steered_walk(masks, tree, form, r: Random, limit: int = 160) -> str | None:
    """A random walk that often goes on with a piece of the format's own texts, so that triggers
    and ends are met; None if it did not end.
    """
    pieces = pieces_of(form)
    constraint = masks.start(tree)
    written = bytearray()
    waiting = b""
    while not constraint.is_terminated():
        allowed = masks.allowed(constraint)
        assert allowed, bytes(written)
        if not waiting and r.random() < 0.5:
            waiting = r.choice(pieces)
        if waiting and waiting[0] in allowed:
            token, waiting = waiting[0], waiting[1:]
        else:
            waiting = b""
            ascii_only = [t for t in sorted(allowed) if t < 127 or t > 257] or sorted(allowed)
            token = (
                masks.EOS if masks.EOS in allowed and r.random() < 0.15 else r.choice(ascii_only)
            )
        constraint.accept(token)
        if token != masks.EOS:
            written += masks.vocabulary.token_bytes[token]
        if len(written) > limit:
            return None
    return written.decode()


def pieces_of(form: Any) -> list[bytes]:
    if isinstance(form, str):
        return [form.encode()] if form else [b"-"]
    inner = form.values() if isinstance(form, dict) else form if isinstance(form, list) else ()
    return [piece for one in inner for piece in pieces_of(one)] + [b"1", b'{"a": 1}', b"}"]


GOOD_AND_BAD: list[tuple[str, str, bool]] = [
    ("calls", "", True),
    ("calls", "some < [ text <f", True),
    ("calls", 'x<f=one>{"a": 1, "b": "</f>"}</f> y [[abc]] z', True),
    ("calls", "<f=two>[1, 2]</f><f=two>[2]</f>", True),
    ("calls", "<f=two>[1, 1]</f>", False),
    ("calls", "text <f=three>", False),
    ("calls", "text <f=", False),
    ("calls", '<f=one>{"a": "x"}</f>', False),
    ("calls, at least one", "text", False),
    ("calls, at least one", "[[a]] text", True),
    ("calls, one at most", "text", True),
    ("calls, one at most", "text [[a]]", True),
    ("calls, one at most", "text [[a]] ", False),
    ("calls, one", "[[a]]", True),
    ("calls in a tag", "<all>text [[a]] </all>", True),
    ("calls in a tag", "<all>text </all> ", False),
    ("thoughts before calls", "<think>I [[ and <f= are text</think>[[a]]", True),
    ("thoughts before calls", "<think>I [[ and <f= are text</think>[[1]]", False),
    ("text without", "acbca", False),
    ("text without", "acbaca b", True),
    ("list of tags", "", True),
    ("list of tags", '<a>12</a>\n<b>{"a": 1}\n</b>\n<a>0</a>', True),
    ("list of tags", "<a>12</a>\n", False),
    ("list of tags", "<a>12</a> <a>1</a>", False),
    ("list of tags in a tag", "[<a>1</a>, <a>2</a>]", True),
    ("list of tags in a tag", "[]", False),
    ("a regex that runs into its neighbours", "aaaabbbbbc", True),
    ("a regex that runs into its neighbours", "abb", True),
    ("a regex that runs into its neighbours", "aab", False),
    ("a regex before JSON", 'so it is: {"a": 1}.', True),
    ("either", "nothing", True),
    ("either", "<a>1</a>", True),
    ("a regex that could run on", "<x>a<b></x>", True),
]


@pytest.mark.parametrize(("name", "text", "right"), GOOD_AND_BAD)
def test_single_texts(masks, name: str, text: str, right: bool) -> None:
    form = FORMATS[name]
    assert is_of(form, text) is right, "the reader itself"
    tree = structural_tag_tree({"type": "structural_tag", "format": form}, {})
    assert masks.accepts(tree, text) is right


def test_the_legacy_form(masks) -> None:
    legacy = {
        "structures": [
            {"begin": "<f=one>", "schema": PAIR["json_schema"], "end": "</f>"},
            {"begin": "<f=two>", "schema": SET["json_schema"], "end": "</f>"},
        ],
        "triggers": ["<f="],
    }
    tree = structural_tag_tree(legacy, {})
    assert masks.accepts(tree, 'hi <f=one>{"a": 1}</f> and <f=two>[3, 1]</f>.')
    assert not masks.accepts(tree, "hi <f=two>[3, 3]</f>")
    assert not masks.accepts(tree, "hi <f=")


def test_special_tokens_in_texts_are_matched_by_id(masks) -> None:
    specials = {"<mark>": masks.MARKER}
    calls = {
        "type": "triggered_tags",
        "triggers": ["<mark>"],
        "tags": [tag("<mark>one ", PAIR, ";"), tag("<mark>two ", INTEGER, "<mark>")],
    }
    tree = structural_tag_tree({"type": "structural_tag", "format": calls}, specials)
    one = [*b"text <mar ", masks.MARKER, *b'one {"a": 1};more']
    two = [masks.MARKER, *b"two 12", masks.MARKER, *b" more"]
    assert masks.accepts(tree, one)
    assert masks.accepts(tree, two)
    assert not masks.accepts(tree, [masks.MARKER, *b"three"])
    assert not masks.accepts(tree, "<mark>one "), "neither text nor the token"


def test_a_regex_that_could_swallow_what_follows_is_refused() -> None:
    form = {"type": "sequence", "elements": [regex("[^}]*"), PAIR]}
    with pytest.raises(StructuralTagError, match="fixed text behind it"):
        structural_tag_tree({"type": "structural_tag", "format": form}, {})


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({**CALLS, "triggers": ["<"],
          "tags": [tag("<f", regex("[a-z]+"), ">"), tag("<fa", PAIR, ">")]}, "goes on where"),
        (tag("[", {"type": "tags_with_separator", "tags": TWO, "separator": "\n"}, "\n<]"),
         "behind the tags"),
    ],
    ids=["begin", "separator"],
)  # fmt: skip
def test_what_could_not_be_told_apart_is_refused(form: dict[str, Any], why: str) -> None:
    with pytest.raises(StructuralTagError, match=why):
        structural_tag_tree({"type": "structural_tag", "format": form}, {})


def test_beginnings_that_the_content_tells_apart(masks) -> None:
    tags = [tag("<f", PAIR, ">"), tag("<fa", PAIR, ">")]
    tree = structural_tag_tree({"format": {**CALLS, "triggers": ["<"], "tags": tags}}, {})
    assert masks.accepts(tree, 'x<f{"a": 1}>y<fa{"a": 2}>')
