"""The two engines must agree: token by token, Outlines' index and llguidance allow the same."""

from __future__ import annotations

import json
from random import Random

import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.fsm import FsmConstraint, regex_of

PATTERNS = [
    "[0-9]{2,4}",
    "(yes|no|maybe)",
    "[a-c]+@[a-c]+[.]com",
    "(ab|a)b?c*",
    "tr[u-z]e{0,3}",
    "世界?[^x]",
    "a?b?c?d?",
    "([A-Z][a-z]{0,3} ){1,2}[0-9]",
]


@pytest.fixture(scope="module")
def fsm(longer_masks) -> GrammarCompiler:
    return GrammarCompiler(
        longer_masks.vocabulary, padded_vocab_size=longer_masks.size, backend="outlines"
    )


def agree_along_a_walk(masks, fsm: GrammarCompiler, tree, r: Random) -> None:
    ours, other = fsm.compile(masks.spec(tree)).start(), masks.start(tree)
    assert isinstance(ours, FsmConstraint)
    for _ in range(40):
        allowed = masks.allowed(ours)
        assert allowed == masks.allowed(other)
        token = r.choice(sorted(allowed))
        ours.accept(token)
        if token == masks.EOS:
            assert ours.is_terminated()
            return
        other.accept(token)
        assert not ours.is_terminated()
        if other.is_terminated():  # llguidance stops by itself where only the end can follow
            assert masks.allowed(ours) == {masks.EOS}
            return


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_masks_agree_on_random_walks(masks, pattern: str) -> None:
    """Over single bytes: where longer tokens could write the same text, llguidance keeps to the
    tokenizer's own way of writing a forced text, and the index allows every way."""
    compiler = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size, backend="outlines")
    r = Random(3)
    for _ in range(10):
        agree_along_a_walk(masks, compiler, {"kind": "regex", "pattern": pattern}, r)


def test_choices_are_regular_and_escaped(longer_masks, fsm) -> None:
    items = [{"kind": "text", "value": v} for v in ("a.b", "a*", "{x}", "世 界")]
    tree = {"kind": "choice", "items": items}
    constraint = fsm.compile(longer_masks.spec(tree)).start()
    for byte in b"a*":
        constraint.accept(byte)
    assert longer_masks.allowed(constraint) == {longer_masks.EOS}
    wrong = fsm.compile(longer_masks.spec(tree)).start()
    wrong.accept(ord("a"))
    with pytest.raises(RuntimeError, match="token"):
        wrong.accept(ord("b"))


def test_an_answer_cannot_be_closed_within_a_budget(longer_masks, fsm) -> None:
    """The field was ignored."""
    spec = longer_masks.spec({"kind": "regex", "pattern": "[0-9]+"})
    with pytest.raises(ConstraintError, match="outlines"):
        fsm.closing(fsm.blueprint(spec), fsm.shortest(spec))


def test_rollback_and_the_end(longer_masks, fsm) -> None:
    constraint = fsm.compile(longer_masks.spec({"kind": "regex", "pattern": "[0-9]+"})).start()
    with pytest.raises(RuntimeError, match="end"):
        constraint.accept(longer_masks.EOS)
    start = longer_masks.allowed(constraint)
    constraint.accept(ord("1"))
    constraint.accept(longer_masks.EOS)
    assert constraint.is_terminated()
    constraint.rollback(2)
    assert not constraint.is_terminated()
    assert longer_masks.allowed(constraint) == start


def test_what_is_not_regular_stays_with_llguidance(longer_masks, fsm) -> None:
    schema = {"kind": "json", "schema": {"type": "object"}}
    assert regex_of(schema) is None
    assert not isinstance(fsm.compile(longer_masks.spec(schema)).start(), FsmConstraint)
    marker = {"kind": "seq", "items": [{"kind": "token", "id": longer_masks.MARKER}]}
    assert regex_of(marker) is None


def test_a_regex_that_is_none_is_refused(longer_masks, fsm) -> None:
    with pytest.raises(ConstraintError):
        fsm.compile(json.dumps({"tree": {"kind": "regex", "pattern": "(["}}))
