"""The batch builder against the definition of a batch, written token by token."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from formgate.engine import devices
from formgate.engine.execution.batch_builder import BatchBuilder
from formgate.engine.flight import readers_of
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.scheduling.step_packer import StepPacker
from formgate.engine.sequence import Sequence
from formgate.engine.step import PromptTargets, Step

BLOCK_SIZE = 4
WANTED = PromptTargets(sequence=0, first_row=0, first_target=1, token_ids=[7], num_top=1)


class Building:
    """A packer and a builder, as the engine and its runner have them."""

    def __init__(self) -> None:
        self.packer = StepPacker(max_num_seqs=8, max_blocks_per_seq=16, block_size=BLOCK_SIZE)
        self.builder = BatchBuilder(
            max_num_seqs=8,
            max_num_tokens=64,
            max_blocks_per_seq=16,
            block_size=BLOCK_SIZE,
            device=torch.device("cpu"),
        )

    def build(self, sequences: list[Sequence]) -> tuple[Step, ForwardBatch]:
        step = self.packer.pack(sequences, self.builder.next_numbers())
        return step, self.builder.build(step)


def assert_batch_of(building: Building, sequences: list[Sequence]) -> None:
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    contexts: list[int] = []
    logits: list[int] = []
    reads = [0]
    for sequence in sequences:
        start = sequence.num_computed_tokens
        end = start + sequence.num_scheduled_tokens
        for position in range(start, end):
            ids.append(sequence.token_ids[position])
            positions.append(position)
            block = sequence.block_table[position // BLOCK_SIZE]
            slots.append(block * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(ids))
        contexts.append(end)
        if end == sequence.num_tokens:
            logits.append(len(ids) - 1)
        reads.append(len(logits))
    if not logits:  # one token is read all the same
        logits, reads[-1] = [len(ids) - 1], 1
    step, batch = building.build(sequences)
    assert step.shape is None
    caught_up = [s for s in sequences if s.catches_up]
    assert step.num_logits == len(caught_up)
    assert [reader.sequence for reader in readers_of(sequences)] == caught_up
    assert building.builder.build(replace(step, prompt_targets=(WANTED,))).read is None
    assert batch.input_ids.tolist() == ids
    assert batch.positions.tolist() == positions
    assert batch.attention.slot_mapping.tolist() == slots
    assert batch.attention.query_start.tolist() == starts
    assert batch.attention.context_lens.tolist() == contexts
    assert batch.logits_indices.tolist() == logits
    assert batch.attention.max_context_len == max(contexts)
    assert batch.attention.max_query_len == max(s.num_scheduled_tokens for s in sequences)
    assert (batch.read is None) == (len(logits) == len(ids))
    if batch.read is not None:
        assert batch.read.query_start.tolist() == reads
        assert batch.read.max_query_len == 1
        assert batch.read.context_lens is batch.attention.context_lens
        assert batch.read.block_tables is batch.attention.block_tables
    # A kernel is compiled anew for a pointer that is not aligned.
    base = batch.input_ids.data_ptr()
    for tensor in (
        batch.positions,
        batch.attention.slot_mapping,
        batch.attention.query_start,
        batch.attention.context_lens,
    ):
        assert (tensor.data_ptr() - base) % 16 == 0
    assert (batch.attention.block_tables.data_ptr() - base) % 16 == 0
    for row, sequence in enumerate(sequences):
        used = -(-contexts[row] // BLOCK_SIZE)
        assert batch.attention.block_tables[row, :used].tolist() == sequence.block_table[:used]
    for tensor in (
        batch.input_ids,
        batch.positions,
        batch.attention.slot_mapping,
        batch.logits_indices,
    ):
        assert tensor.dtype is torch.int64
    for tensor in (
        batch.attention.query_start,
        batch.attention.context_lens,
        batch.attention.block_tables,
    ):
        assert tensor.dtype is torch.int32
        assert tensor.is_contiguous()


@pytest.mark.parametrize("seed", range(10))
def test_every_batch_is_what_the_schedule_says(seed: int) -> None:
    """Sequences come, grow, are preempted, leave and change rows between builds."""
    rng = random.Random(seed)
    building = Building()
    alive: list[Sequence] = []
    for _ in range(150):
        if len(alive) < 8 and (not alive or rng.random() < 0.3):
            tokens = [rng.randrange(1000) for _ in range(rng.randint(1, 20))]
            alive.append(Sequence("r", tokens, len(tokens), SamplingParams()))
        if rng.random() < 0.1:
            alive.pop(rng.randrange(len(alive)))
        if alive and rng.random() < 0.1:
            victim = rng.choice(alive)
            victim.block_table, victim.num_computed_tokens = [], 0
        if alive and rng.random() < 0.2:  # tokens are taken back, and their blocks
            victim = rng.choice(alive)
            victim.num_computed_tokens = rng.randint(0, victim.num_computed_tokens)
            victim.block_table = victim.block_table[: -(-victim.num_computed_tokens // BLOCK_SIZE)]
        if rng.random() < 0.2:
            rng.shuffle(alive)
        if not alive:
            continue
        budget = 64
        for sequence in alive:
            left = sequence.num_uncomputed_tokens
            wanted = left if rng.random() < 0.7 else rng.randint(1, left)
            # Leave a token for each of the others.
            sequence.num_scheduled_tokens = min(wanted, budget - len(alive))
            budget -= sequence.num_scheduled_tokens
            end = sequence.num_computed_tokens + sequence.num_scheduled_tokens
            while len(sequence.block_table) * BLOCK_SIZE < end:
                sequence.block_table.append(rng.randrange(10_000))
        scheduled = [s for s in alive if s.num_scheduled_tokens > 0]
        assert_batch_of(building, scheduled)
        for sequence in scheduled:
            if sequence.catches_up and sequence.num_tokens < 60:
                sequence.token_ids.append(rng.randrange(1000))
            sequence.num_computed_tokens += sequence.num_scheduled_tokens
            sequence.num_scheduled_tokens = 0
        alive = [s for s in alive if s.num_uncomputed_tokens]


class Checking(Sequence):
    """Wants the logits of its last three query tokens, as one that checks a draft does."""

    num_read_rows = 3


def test_a_sequence_may_have_several_rows_of_logits() -> None:
    params = SamplingParams()
    checking = Checking("c", [5, 6, 7, 8], 1, params, num_computed_tokens=1)
    plain = Sequence("p", [9, 10], 2, params)
    checking.num_scheduled_tokens, plain.num_scheduled_tokens = 3, 2
    checking.block_table, plain.block_table = [3], [4]
    step, batch = Building().build([checking, plain])
    assert batch.input_ids.tolist() == [6, 7, 8, 9, 10]
    assert batch.logits_indices.tolist() == [0, 1, 2, 4]
    assert step.num_logits == 4
    assert batch.read is not None
    assert batch.read.query_start.tolist() == [0, 3, 4]
    assert batch.read.max_query_len == 3
    assert [reader.rows for reader in readers_of([checking, plain])] == [range(3), range(3, 4)]


@pytest.mark.parametrize(
    ("limit", "expected"), [("150000 100000", 2), ("1000 100000", 1), ("max 100000", 64)]
)
def test_a_containers_share_limits_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit + "\n")
    monkeypatch.setattr(devices, "CGROUP_CPU_LIMIT", file)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert devices.usable_cpus() == expected
