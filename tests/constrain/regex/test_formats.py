"""Formats: what is let through, the standard library and the `jsonschema` package take as well, and
so they do what they let through of all that the masks write.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from random import Random

import jsonschema
import pytest

from formgate.constrain.algebra.scalars import matches
from formgate.constrain.errors import ConstraintError
from formgate.constrain.regex.formats import FORMATS

# Of each format, what is of it and what is not.
EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "date": (["2024-02-29", "0001-01-01"], ["2023-02-29", "2024-13-01", "2024-1-1", "0000-01-01"]),
    "time": (["23:59:59Z", "00:00:00.123+05:30"], ["24:00:00Z", "12:00:00", "12:60:00Z"]),
    "date-time": (["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-02-29 12:00:00Z"]),
    "duration": (["P1Y2M3DT4H5M6S", "PT0S", "P4W"], ["P", "P1YT", "P1H", "1Y", "P1W2D"]),
    "email": (["a.b+c@ex-am.ple"], ["@b", "a@", "a..b@c", "a b@c", "a@-b"]),
    "idn-email": (["a@b"], ["a@", "ab"]),
    "hostname": (["a", "ex-am.ple"], ["-a", "a-", "a..b", "a_b", ""]),
    "idn-hostname": (["example.com"], ["-a.com", "a..com"]),
    "ipv4": (["0.0.0.0", "255.1.99.250"], ["256.1.1.1", "1.1.1", "01.1.1.1", "1.1.1.1.1"]),
    "ipv6": (["::", "1::8", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8"], [":::", "1:2", "::g", "1::2::3"]),
    "uuid": (["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08aa9811eab4aa73b441d16380"]),
    "uri": (
        ["http://a.b/c?d=e#f", "urn:a:b", "a://[::1]:8/"],
        ["/a", "a b:c", "http://[::z]", "é:"],
    ),
    "uri-reference": (["/a/b", "#x", "", "?q", "a:b"], ["\\a", "a b", "%zz"]),
    "iri": (["http://é.b/ü"], ["/ü", "http://a b"]),
    "iri-reference": (["/ü", "é"], ["\\ü"]),
    "uri-template": (["/a/{b}{?c,d*}", "{+e:3}"], ["/a/{b", "{}", "a b"]),
    "json-pointer": (["", "/a~0b/~1", "/"], ["a", "/~", "/~2"]),
    "relative-json-pointer": (["0", "1/a", "12#"], ["-1", "01", "/a", "1#a"]),
    "regex": (["^a(b|c)*$", "[a-z]{2}", ""], ["(", "[b-", "a{2"]),
}
# What one validator takes for a string of the format and another does not.
NEITHER: dict[str, list[str]] = {
    "date": ["0000-01-01"],
    "time": ["22:59:60Z", "12:00:00z", "12:00:00.1234567891Z", "12:00:00"],
    "date-time": ["2024-02-29t12:00:00Z", "2024-02-29 12:00:00Z"],
    "email": ["a@b_c", "ü@b"],
    "hostname": ["a_b", "a."],
}
ORACLES: dict[str, Callable[[str], object]] = {
    "date": datetime.date.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
    "regex": re.compile,
}


def test_each_format_has_examples() -> None:
    assert EXAMPLES.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_examples(masks, name: str) -> None:
    tree = {"kind": "json", "schema": {"type": "string", "format": name}}
    good, bad = EXAMPLES[name]
    for text in good:
        assert matches(FORMATS[name].narrow, text, whole=True), text
        assert masks.accepts(tree, json.dumps(text, ensure_ascii=False)), text
    for text in bad:
        assert not matches(FORMATS[name].narrow, text, whole=True), text
        assert not masks.accepts(tree, json.dumps(text, ensure_ascii=False)), text


@pytest.mark.parametrize("name", FORMATS)
def test_the_negation_of_a_format_holds_no_string_of_it(masks, name: str) -> None:
    tree = {"kind": "json", "schema": {"type": "string", "not": {"format": name}}}
    good, _ = EXAMPLES[name]
    for text in good:
        assert matches(FORMATS[name].wide, text, whole=True), text
        assert not masks.accepts(tree, json.dumps(text, ensure_ascii=False)), text
    negated, checker = 0, jsonschema.FormatChecker()
    r = Random(name)
    for _ in range(20):
        text = masks.walk(tree, r, 90)
        if text is not None:
            negated += 1
            assert name not in checker.checkers or not checker.conforms(json.loads(text), name)
    assert negated > 5
    # A string that some validators take for one of the format is neither.
    for text in NEITHER.get(name, ()):
        assert not matches(FORMATS[name].narrow, text, whole=True), text
        assert not masks.accepts(tree, json.dumps(text)), text


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"oneOf": [{"format": "ipv4"}, {"format": "hostname"}]},
            ["localhost", "a.example"],
            ["1.2.3.4", "::1", "-"],
        ),
        (
            {"oneOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
            ["1.2.3.4", "::1"],
            ["localhost", "1.2.3"],
        ),
        (
            {"if": {"format": "uuid"}, "then": {"pattern": "^0"}, "else": {"maxLength": 3}},
            ["00000000-0000-0000-0000-000000000000", "abc", ""],
            ["10000000-0000-0000-0000-000000000000", "abcd"],
        ),
        (
            {"not": {"anyOf": [{"format": "date"}, {"format": "uri"}]}, "minLength": 2},
            ["2024-02-30", "a b"],
            ["2024-02-29", "a:b", "x"],
        ),
    ],
)
def test_formats_in_one_of_and_if(masks, schema, good: list[str], bad: list[str]) -> None:
    tree = {"kind": "json", "schema": {"type": "string", **schema}}
    for text in good:
        assert masks.accepts(tree, json.dumps(text)), text
    for text in bad:
        assert not masks.accepts(tree, json.dumps(text)), text


@pytest.mark.parametrize("schema", [{"allOf": [{"format": "ipv4"}, {"not": {"format": "ipv4"}}]}])
def test_a_format_and_its_negation_leave_nothing(masks, schema) -> None:
    with pytest.raises(ConstraintError):
        masks.compiler.compile(masks.spec({"kind": "json", "schema": {"type": "string", **schema}}))


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_masks_write_others_take(masks, name: str) -> None:
    schema = {"type": "string", "format": name}
    tree = {"kind": "json", "schema": schema}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    r = Random(name)
    written = [text for _ in range(6) if (text := masks.walk(tree, r, 90)) is not None]
    assert written
    for text in written:
        value = json.loads(text)
        validator.validate(value)
        if name in ORACLES and ":60" not in value:  # leap seconds, which Python does not have
            ORACLES[name](value)  # raises for what is not of the format


@pytest.mark.parametrize("name", ["date", "ipv4", "ipv6", "uuid"])
def test_what_is_one_letter_off_is_judged_as_by_the_standard_library(name: str) -> None:
    r = Random(name)
    letters = "0123456789abf:.-"
    agreed = {True: 0, False: 0}
    for _ in range(400):
        text = r.choice(EXAMPLES[name][0])
        at = r.randrange(len(text))
        text = text[:at] + r.choice(letters) + text[at + r.choice((0, 1, 1, 1)) :]
        try:
            ORACLES[name](text)
        except ValueError:
            taken = False
        else:
            taken = True
        if taken and name in ("date", "uuid") and not re.fullmatch(r"[^-]+(-[^-]+)+", text):
            continue  # forms of ISO 8601 and of UUIDs that JSON Schema does not have
        if taken and len(text) != len(EXAMPLES[name][0][0]) and name in ("date", "uuid"):
            continue
        assert matches(FORMATS[name].narrow, text, whole=True) == taken, text
        agreed[taken] += 1
    assert min(agreed.values()) > 20


def test_a_format_that_the_standard_does_not_define_says_nothing(masks) -> None:
    tree = {"kind": "json", "schema": {"type": "string", "format": "color"}}
    assert masks.accepts(tree, '"anything"')


def test_a_format_that_no_string_of_the_length_has_is_refused(masks) -> None:
    schema = {"type": "string", "format": "uuid", "maxLength": 8}
    with pytest.raises(ConstraintError):
        masks.compiler.compile(masks.spec({"kind": "json", "schema": schema}))
