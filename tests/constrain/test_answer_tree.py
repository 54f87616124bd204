"""Every kind of node, on its own and inside others."""

from __future__ import annotations

import pytest

from formgate.constrain.errors import ConstraintError

A, B = {"kind": "text", "value": "a"}, {"kind": "text", "value": "b"}


def test_text_with_every_awkward_character(masks) -> None:
    value = 'q"\\/\n\t世{}<>'
    assert masks.accepts({"kind": "text", "value": value}, value)


def test_a_marker_is_its_token_and_never_its_characters(masks) -> None:
    tree = {"kind": "seq", "items": [A, {"kind": "token", "id": masks.MARKER}, B]}
    assert masks.accepts(tree, [97, masks.MARKER, 98])
    assert not masks.accepts(tree, "a<mark>b")


def test_free_text_holds_anything_but_special_tokens(masks) -> None:
    free = {"kind": "free"}
    assert masks.accepts(free, "")
    assert masks.accepts(free, "any 世界 <mark> text\n")
    assert not masks.accepts(free, [97, masks.MARKER])


def test_free_text_until_a_text_or_a_token(masks) -> None:
    until = {"kind": "free_text_until", "text": "[CALL]"}
    tree = {"kind": "seq", "items": [until, A]}
    assert masks.accepts(tree, "hello [CALL]a")
    assert not masks.accepts(tree, "hello a")
    assert not masks.accepts(tree, "hello [CALL]b")
    gated = {"kind": "seq", "items": [{"kind": "free"}, {"kind": "token", "id": masks.MARKER}, A]}
    assert masks.accepts(gated, [*b"some text", masks.MARKER, 97])
    assert not masks.accepts(gated, [*b"some text", masks.MARKER, 98])


def test_choice_and_repeat(masks) -> None:
    either = {"kind": "choice", "items": [A, B]}
    assert masks.accepts(either, "a")
    assert not masks.accepts(either, "ab")
    comma = {"kind": "text", "value": ", "}
    for least, most, good, bad in [
        (1, None, ["a", "a, b", "a, a, b"], ["", "a, ", "ab"]),
        (0, 2, ["", "a", "a, b"], ["a, a, a"]),
        (2, 2, ["a, b"], ["a", "a, a, a"]),
    ]:
        tree = {"kind": "repeat", "item": either, "min": least, "max": most, "separator": comma}
        assert all(masks.accepts(tree, text) for text in good), (least, most)
        assert not any(masks.accepts(tree, text) for text in bad), (least, most)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"[0-9]{3}", "123", "1234"),
        (r"^[0-9]{3}$", "123", "12"),
        (r"a/b", "a/b", "a\\/b"),
        (r"a\/b", "a/b", "ab"),
        (r"\w+@\w+\.com", "joe@here.com", "joe@here.org"),
        (r"yes|no", "no", "maybe"),
        (r"price \$", "price $", "price "),
    ],
)
def test_regex_matches_the_whole_answer(masks, pattern: str, good: str, bad: str) -> None:
    tree = {"kind": "regex", "pattern": pattern}
    assert masks.accepts(tree, good)
    assert not masks.accepts(tree, bad)


@pytest.mark.parametrize(
    "source",
    [
        'start: "x" NUMBER ("," NUMBER)*\nNUMBER: /[0-9]+/',
        'root ::= "x" number ("," number)*\nnumber ::= [0-9]+',
    ],
    ids=["lark", "gbnf"],
)
def test_grammars_in_both_notations(masks, source: str) -> None:
    tree = {"kind": "lark", "source": source}
    assert masks.accepts(tree, "x1,23")
    assert not masks.accepts(tree, "x1,")


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "regex", "pattern": "(["},
        {"kind": "regex", "pattern": r"[^\x00-\u{10FFFF}]"},
        {"kind": "lark", "source": "start: unknown_rule"},
        {"kind": "lark", "source": "this is no grammar ::= ("},
        {"kind": "lark", "source": ""},
    ],
)
def test_what_is_no_grammar_is_refused(masks, tree) -> None:
    with pytest.raises(ConstraintError) as caught:
        masks.start(tree)
    assert caught.value.code == "invalid_grammar"
    assert len(caught.value.message) < 500


def test_the_answer_can_end_only_where_the_grammar_does(masks) -> None:
    constraint = masks.start({"kind": "text", "value": "ab"})
    assert masks.EOS not in masks.allowed(constraint)
    constraint.accept(97)
    assert masks.allowed(constraint) == {98}
    constraint.accept(98)
    assert constraint.is_terminated() or masks.allowed(constraint) == {masks.EOS}
