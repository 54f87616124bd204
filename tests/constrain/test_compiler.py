"""The compiler: its cache, its limits, and many threads at once."""

from __future__ import annotations

import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler, Limits
from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.closing import Budget
from formgate.constrain.masks.constraint import Constraint


def schema_of(i: int) -> str:
    schema = {"type": "object", "properties": {f"k{i}": {"type": "integer"}}}
    return json.dumps({"tree": {"kind": "json", "schema": schema}})


def test_the_same_text_is_compiled_once(masks) -> None:
    assert masks.compiler.compile(schema_of(1)) is masks.compiler.compile(schema_of(1))


def test_the_cache_is_bounded_in_bytes_and_keeps_what_was_used_last(masks) -> None:
    limits = Limits(max_cached_bytes=2_000_000, heap_check_seconds=0.0)
    compiler = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size, limits=limits)
    first = compiler.compile(schema_of(0))
    others = []
    for i in range(1, 200):
        others.append(weakref.ref(compiler.compile(schema_of(i))))
        assert compiler.compile(schema_of(0)) is first
    assert compiler.compile(schema_of(199)) is others[-1]()
    assert others[0]() is None


def test_a_blueprint_says_all_that_another_process_needs(masks) -> None:
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}
    blueprint = masks.compiler.blueprint(masks.spec({"kind": "json", "schema": schema}))
    elsewhere = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size)
    constraint = elsewhere.factory(Constraint.of(blueprint).dumps())
    for byte in b'["a", "':
        constraint.accept(byte)
    assert masks.allowed(constraint) == {ord("b")}


def test_after_the_warm_up_no_table_of_the_vocabulary_is_made(masks, monkeypatch) -> None:
    compiler = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size)
    compiler.warm_up()
    for made_once in ("TokenBytes", "EndSearch"):
        monkeypatch.delattr(f"formgate.constrain.compiler.{made_once}")
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}
    blueprint = compiler.blueprint(masks.spec({"kind": "json", "schema": schema}))
    budget = Budget(30, largest_part=8)
    constraint = compiler.factory(Constraint.of(blueprint, budget).dumps())
    assert masks.allowed(constraint) == {ord("[")}


def test_sequences_of_one_grammar_do_not_share_state(masks) -> None:
    one, other = (
        masks.start({"kind": "text", "value": "ab"}),
        masks.start({"kind": "text", "value": "ab"}),
    )
    one.accept(97)
    assert masks.allowed(one) == {98}
    assert 97 in masks.allowed(other)


def test_a_constraint_of_too_many_bytes_is_refused(masks) -> None:
    with pytest.raises(ConstraintError) as caught:
        masks.start({"kind": "json", "schema": {"enum": [str(i) for i in range(400_000)]}})
    assert caught.value.code == "schema_too_complex"


def test_a_grammar_that_explodes_while_it_runs_ends_its_own_sequence(masks) -> None:
    constraint = masks.start({"kind": "regex", "pattern": "((a{1,1000}){1,1000}){1,1000}x"})

    def run() -> None:
        for _ in range(1000):
            masks.allowed(constraint)
            constraint.accept(97)

    with pytest.raises(ValueError, match="too many"):
        run()
    assert masks.accepts({"kind": "text", "value": "a"}, "a")


def test_a_schema_nested_without_end(masks) -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises((ConstraintError, RecursionError)) as caught:
        masks.start({"kind": "json", "schema": schema})
    assert isinstance(caught.value, RecursionError) or caught.value.code == "schema_too_complex"


def test_many_threads_at_once(masks) -> None:
    def run(i: int) -> bytes:
        constraint = masks.compiler.compile(schema_of(i % 5)).start()
        row = np.zeros(-(-masks.size // 32), np.int32)
        constraint.fill_bitmask(row)
        return row.tobytes()

    expected = [run(i) for i in range(5)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(200)))
    assert found == [expected[i % 5] for i in range(200)]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "array", "items": {"enum": ["x", 1]}, "maxItems": 3},
        {"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
    ],
    ids=json.dumps,
)
def test_one_schema_alone_has_the_masks_of_one_among_others(masks, schema) -> None:
    alone = {"kind": "json", "schema": schema}
    among = {"kind": "seq", "items": [alone]}
    r = Random(json.dumps(schema))
    for _ in range(5):
        one, two = masks.start(alone), masks.start(among)
        for _ in range(60):
            allowed = masks.allowed(one)
            assert allowed == masks.allowed(two)
            token = r.choice(sorted(allowed))
            one.accept(token)
            two.accept(token)
            assert one.is_terminated() == two.is_terminated()
            if one.is_terminated():
                break
