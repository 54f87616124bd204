"""What is kept is bounded by what it really takes."""

from __future__ import annotations

import pytest

from formgate.constrain.compiler import GrammarCompiler, Limits
from formgate.constrain.heap import Heap
from formgate.constrain.masks.grammar_cache import GrammarCache


class Sized:
    """Values that grow, and a heap that holds them and something else."""

    def __init__(self) -> None:
        self.others = 1_000_000
        self.sizes: dict[int, int] = {}

    def bytes_in_use(self) -> int:
        return self.others + sum(self.sizes.values())

    def value(self, size: int) -> Value:
        return Value(self, size)


class Value:
    def __init__(self, heap: Sized, size: int) -> None:
        self._heap = heap
        self.grow(size)

    def grow(self, size: int) -> None:
        self._heap.sizes[id(self)] = size

    def __del__(self) -> None:
        del self._heap.sizes[id(self)]


def filled(heap: Sized, count: int) -> GrammarCache[Value]:
    cache = GrammarCache[Value](1000, heap.bytes_in_use)
    for number in range(count):
        cache.put(str(number), heap.value(10), 10)
    return cache


def test_values_are_dropped_by_the_size_that_they_are_said_to_have() -> None:
    cache = GrammarCache[str](100)
    for key in "abcd":
        cache.put(key, key.upper(), 29)
    assert [cache.get(key) for key in "abcd"] == [None, "B", "C", "D"]
    cache.put("e", "E", 1000)
    assert len(cache) == 1


def test_values_that_have_grown_make_room() -> None:
    heap = Sized()
    cache = filled(heap, 20)
    assert len(cache) == 20
    (grown := cache.get("3")) and grown.grow(5000)
    del grown
    cache.put("new", heap.value(10), 10)
    assert heap.bytes_in_use() - heap.others <= 1000 + 10
    assert cache.get("new") is not None


def test_a_cached_value_that_grows_is_noticed_without_a_new_one() -> None:
    heap = Sized()
    cache = filled(heap, 20)
    value = cache.get("19")
    assert value is not None
    value.grow(900)
    assert cache.get("19") is value
    assert 1 < len(cache) < 20  # the oldest have gone


def test_the_heap_is_not_measured_at_every_use() -> None:
    heap = Sized()
    measured: list[int] = []

    def bytes_in_use() -> int:
        measured.append(1)
        return heap.bytes_in_use()

    cache = GrammarCache[Value](1000, bytes_in_use, check_seconds=3600.0)
    cache.put("a", heap.value(10), 10)
    at_first = len(measured)
    assert at_first
    for _ in range(100):
        assert cache.get("a") is not None
    assert len(measured) == at_first


def test_memory_of_others_does_not_keep_the_cache_empty() -> None:
    heap = Sized()
    cache = filled(heap, 20)
    heap.others += 50_000
    cache.put("new", heap.value(10), 10)
    assert len(cache) == 1
    for number in range(20):
        cache.put(f"later {number}", heap.value(10), 10)
    assert len(cache) == 21
    heap.others -= 60_000  # below where it began
    cache.put("last", heap.value(10), 10)
    assert len(cache) == 22


@pytest.mark.skipif(Heap().bytes_in_use() is None, reason="only glibc tells")
def test_grammars_that_grow_while_masks_are_made_return_their_memory(masks) -> None:
    """Each of these has some hundred bytes of text, and takes megabytes after a few tokens."""
    most = 30_000_000
    limits = Limits(max_cached_bytes=most, heap_check_seconds=0.0)
    compiler = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size, limits=limits)
    compiler.warm_up()
    before, largest = Heap().bytes_in_use(), 0
    for number in range(12):
        pattern = f"(a|aa|aaa|aaaa|aaaaa)*b{{{5000 + number}}}"
        schema = {"type": "string", "pattern": pattern, "maxLength": 1_000_000}
        constraint = compiler.compile(masks.spec({"kind": "json", "schema": schema})).start()
        for token in b'"aabaabbba':
            masks.allowed(constraint)
            constraint.accept(token)
        del constraint
        largest = max(largest, Heap().bytes_in_use() - before)
    compiler.compile(masks.spec({"kind": "json", "schema": {"type": "null"}}))
    assert largest > 5_000_000
    assert Heap().bytes_in_use() - before < 2 * most
