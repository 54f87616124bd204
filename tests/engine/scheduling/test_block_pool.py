"""Blocks, references and the prefix cache, without a model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from formgate.engine.adapter import Adapter, AdapterSource
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.scheduling.block_pool import BlockPool
from formgate.engine.scheduling.block_tables import BlockTables
from formgate.engine.scheduling.prefix_cache import PrefixCache, block_hash, root_hash
from formgate.engine.sequence import Sequence

BLOCK_SIZE = 4
ADAPTER = Adapter(AdapterSource("one", Path("one")), "f00")


def make_sequence(token_ids: list[int], **fields) -> Sequence:
    fields.setdefault("params", SamplingParams())
    return Sequence("r", list(token_ids), len(token_ids), **fields)


def make_tables(num_blocks: int, *, prefix_caching: bool = True) -> BlockTables:
    return BlockTables(BlockPool(num_blocks), BLOCK_SIZE, prefix_caching=prefix_caching)


def compute(tables: BlockTables, sequence: Sequence) -> int:
    """Admit and compute a sequence whole; returns how many tokens the cache had."""
    tables.share(sequence, tables.find_prefix(sequence))
    cached = sequence.num_computed_tokens
    tables.grow(sequence, sequence.num_tokens)
    sequence.num_computed_tokens = sequence.num_tokens
    tables.cache_computed(sequence)
    return cached


def test_blocks_are_handed_out_once() -> None:
    pool = BlockPool(5)
    first, second = pool.allocate(3), pool.allocate(2)
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert (pool.num_free, pool.num_used) == (0, 5)
    pool.check_integrity([first, second])
    with pytest.raises(AssertionError):
        pool.allocate(1)


def test_a_block_cannot_be_freed_twice() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    assert pool.release(blocks) == blocks
    with pytest.raises(AssertionError, match="freed twice"):
        pool.release(blocks)


def test_integrity_check_finds_a_lost_and_a_stolen_block() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    with pytest.raises(AssertionError):
        pool.check_integrity([])
    with pytest.raises(AssertionError):
        pool.check_integrity([blocks, blocks])
    pool.check_integrity([blocks])


def test_a_shared_block_is_free_when_its_last_user_leaves() -> None:
    tables = make_tables(8)
    first, second = make_sequence(list(range(10))), make_sequence(list(range(10)))
    assert compute(tables, first) == 0
    assert compute(tables, second) == 8
    assert first.block_table[:2] == second.block_table[:2]
    assert first.block_table[2] != second.block_table[2]
    assert tables.pool.num_used == 4
    assert len(tables.release(first)) == 1
    assert len(tables.release(second)) == 3
    assert tables.pool.num_used == 0


def test_a_finished_sequence_is_found_again() -> None:
    tables = make_tables(8)
    first = make_sequence(list(range(10)))
    compute(tables, first)
    tables.release(first)
    assert compute(tables, make_sequence([*range(10), 77])) == 8


@pytest.mark.parametrize(
    ("length", "found"), [(1, 0), (4, 0), (5, 0), (6, 4), (8, 4), (9, 4), (10, 8)]
)
def test_the_last_two_tokens_are_always_computed(length: int, found: int) -> None:
    tables = make_tables(8)
    compute(tables, make_sequence(list(range(length))))
    assert compute(tables, make_sequence(list(range(length)))) == found


def test_a_partial_block_is_never_shared() -> None:
    tables = make_tables(8)
    compute(tables, make_sequence([1, 2, 3, 4, 5, 6]))
    assert compute(tables, make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])) == 4


@pytest.mark.parametrize(
    "other",
    [{"cache_salt": "b"}, {"cache_salt": None}, {"cache_salt": "a", "adapter": ADAPTER}],
)
def test_salt_and_adapter_separate(other: dict[str, str]) -> None:
    tables = make_tables(16)
    tokens = list(range(10))
    assert compute(tables, make_sequence(tokens, cache_salt="a")) == 0
    assert compute(tables, make_sequence(tokens, **other)) == 0
    assert compute(tables, make_sequence(tokens, cache_salt="a")) == 8


def test_equal_blocks_after_other_prefixes_differ() -> None:
    tables = make_tables(16)
    compute(tables, make_sequence([1, 1, 1, 1, 5, 6, 7, 8, 9, 10]))
    assert compute(tables, make_sequence([2, 2, 2, 2, 5, 6, 7, 8, 9, 10])) == 0
    assert compute(tables, make_sequence([5, 6, 7, 8, 9, 10])) == 0


def test_roots_cannot_be_forged() -> None:
    assert root_hash("a", None) != root_hash(None, "a")
    assert root_hash("None", None) != root_hash(None, None)
    assert root_hash("a', 'b", None) != root_hash("a", "b")


def test_a_colliding_hash_is_no_hit() -> None:
    cache = PrefixCache()
    name = block_hash(root_hash(None, None), [1, 2, 3, 4])
    cache.insert(name, [1, 2, 3, 4], 7)
    assert cache.find(name, [1, 2, 3, 4]) == 7
    assert cache.find(name, [1, 2, 3, 5]) is None


def test_the_first_of_equal_blocks_stays_the_one_that_is_found() -> None:
    cache = PrefixCache()
    cache.insert(b"name", [1], 3)
    cache.insert(b"name", [1], 5)
    assert cache.find(b"name", [1]) == 3
    assert 5 not in cache
    cache.forget(5)
    assert cache.find(b"name", [1]) == 3
    cache.forget(3)
    assert cache.find(b"name", [1]) is None
    cache.check_integrity()


def test_the_least_recently_used_is_evicted_first_and_its_end_before_its_beginning() -> None:
    tables = make_tables(8)
    old, new = make_sequence([1] * 8 + [9, 9]), make_sequence([2] * 8 + [9, 9])
    compute(tables, old)
    compute(tables, new)
    tables.release(old)
    tables.release(new)
    # Six free blocks hold contents or nothing; two were never used, two held partial blocks.
    taken = tables.pool.allocate(5)
    assert tables.find_prefix(make_sequence([1] * 10)) != []  # its first block is left
    assert len(tables.find_prefix(make_sequence([1] * 10))) == 1
    assert len(tables.find_prefix(make_sequence([2] * 10))) == 2
    taken += tables.pool.allocate(1)
    assert tables.find_prefix(make_sequence([1] * 10)) == []
    assert len(tables.find_prefix(make_sequence([2] * 10))) == 2
    tables.pool.check_integrity([taken])


def test_a_hit_makes_contents_recent() -> None:
    tables = make_tables(4)
    for start in (1, 2):
        sequence = make_sequence([start] * 4)
        compute(tables, sequence)
        tables.release(sequence)
    again = make_sequence([1] * 6)
    assert compute(tables, again) == 4
    tables.release(again)
    tables.pool.allocate(3)
    assert tables.find_prefix(make_sequence([1] * 6)) != []
    assert tables.find_prefix(make_sequence([2] * 6)) == []


def test_a_table_shrinks_to_the_tokens_that_stay() -> None:
    tables = make_tables(4)
    sequence = make_sequence(list(range(6)))
    compute(tables, sequence)
    table = sequence.block_table
    tables.grow(sequence, 13)
    assert tables.pool.num_free == 0
    tables.shrink(sequence, 7)
    assert sequence.block_table == table[:2]
    assert sequence.block_table is not table
    assert tables.pool.num_free == 2
    tables.pool.check_integrity([sequence.block_table])
    tables.shrink(sequence, 8)  # nothing to give back
    assert tables.pool.num_free == 2


def test_a_table_keeps_the_blocks_that_others_may_find() -> None:
    tables = make_tables(4)
    sequence = make_sequence(list(range(8)))
    compute(tables, sequence)
    with pytest.raises(AssertionError):
        tables.shrink(sequence, 4)


def test_forgotten_contents_are_not_found() -> None:
    tables = make_tables(8)
    sequence = make_sequence(list(range(10)))
    compute(tables, sequence)
    tables.pool.forget(tables.release(sequence))
    assert tables.find_prefix(make_sequence(list(range(10)))) == []
    tables.pool.check_integrity([])


def test_without_prefix_caching_nothing_is_found() -> None:
    tables = make_tables(8, prefix_caching=False)
    compute(tables, make_sequence(list(range(10))))
    assert compute(tables, make_sequence(list(range(10)))) == 0
    assert len(tables.pool.cache) == 0


def test_prompt_logprobs_look_nothing_up() -> None:
    tables = make_tables(8)
    compute(tables, make_sequence(list(range(10))))
    wanting = make_sequence(list(range(10)), params=SamplingParams(prompt_logprobs=0))
    assert compute(tables, wanting) == 0


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_a_window_keeps_what_it_reaches(prefix_caching: bool) -> None:
    pool = BlockPool(12)
    tables = BlockTables(pool, BLOCK_SIZE, prefix_caching=prefix_caching, window=6)
    sequence = make_sequence(list(range(40)))
    seen: dict[int, int] = {}  # by index, the block that was written
    for computed in range(1, 41):
        tables.grow(sequence, computed)
        seen[(computed - 1) // BLOCK_SIZE] = sequence.block_table[-1]
        sequence.num_computed_tokens = computed
        tables.cache_computed(sequence)
        tables.drop_unreached(sequence)
        pool.check_integrity([sequence.held_blocks])
        assert set(sequence.block_table) <= set(sequence.held_blocks)
        for key in range(max(computed - 5, 0), computed):  # with itself, the next token's window
            assert sequence.block_table[key // BLOCK_SIZE] == seen[key // BLOCK_SIZE]
        assert len(sequence.held_blocks) <= 3
    found = tables.find_prefix(make_sequence(list(range(40))))
    assert len(found) == (9 if prefix_caching else 0)
    other = make_sequence(list(range(40)))
    tables.share(other, found)
    tables.drop_unreached(other)
    pool.check_integrity([sequence.held_blocks, other.held_blocks])
    for one in (sequence, other):
        tables.release(one)
    pool.check_integrity([])
    assert pool.num_used == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_life_keeps_every_block_owned(seed: int) -> None:
    rng = random.Random(seed)
    tables = make_tables(24)
    alive: list[Sequence] = []
    for _ in range(200):
        if alive and rng.random() < 0.45:
            tables.release(alive.pop(rng.randrange(len(alive))))
        else:
            sequence = make_sequence([rng.randrange(2) for _ in range(rng.randint(1, 20))])
            prefix = tables.find_prefix(sequence)
            missing = tables.num_blocks_for(sequence.num_tokens) - len(prefix)
            if missing <= tables.pool.num_free - tables.pool.num_free_among(prefix):
                compute(tables, sequence)
                alive.append(sequence)
        tables.pool.check_integrity(s.block_table for s in alive)
    for sequence in alive:
        tables.release(sequence)
    assert tables.pool.num_used == 0
    tables.pool.check_integrity([])
