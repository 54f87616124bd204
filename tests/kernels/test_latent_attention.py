"""Latent attention in its two forms, and the write of its entries, against dense formulas."""

import math
from functools import partial

import pytest
import torch

from formgate.kernels.latent_attention import (
    latent_attention,
    latent_attention_ref,
    latent_attention_triton,
)
from formgate.kernels.prompt_attention import (
    prompt_attention,
    prompt_attention_ref,
    prompt_attention_triton,
)
from formgate.kernels.write_latent import write_latent, write_latent_ref, write_latent_triton

ABSORBED = {
    "ref": latent_attention_ref,
    "triton": latent_attention_triton,
    "split": partial(latent_attention_triton, num_splits=4),
    "dispatched": latent_attention,
}
EXPANDED = {
    "ref": prompt_attention_ref,
    "triton": prompt_attention_triton,
    "dispatched": prompt_attention,
}
WRITES = {"ref": write_latent_ref, "triton": write_latent_triton, "dispatched": write_latent}
DTYPES = [torch.float32, torch.bfloat16]


class Case:
    """A ragged batch over a shuffled cache: (query length, context length) of each sequence."""

    def __init__(self, device, lengths, *, heads, latent, rotary, dtype, block=16):
        num_blocks = sum(-(-context // block) for _, context in lengths) + 2
        n = sum(query for query, _ in lengths)
        self.lengths, self.block, self.latent = lengths, block, latent
        # Heads outermost, as a batched product leaves them.
        self.query = torch.randn(heads, n, latent, device=device).to(dtype).transpose(0, 1)
        packed = torch.randn(n, heads, rotary + 8, device=device).to(dtype)
        self.rotary_query = packed[..., 8:]
        self.cache = torch.randn(num_blocks, block, latent + rotary, device=device).to(dtype)
        order = torch.randperm(num_blocks - 1) + 1  # block 0 is what tables are padded with
        self.cache[0] = math.nan if device.type == "cuda" else 1e4
        longest = max(context for _, context in lengths)
        tables = torch.zeros(len(lengths), -(-longest // block) + 1, dtype=torch.int32)
        used = 0
        for row, (_, context) in enumerate(lengths):
            count = -(-context // block)
            tables[row, :count] = order[used : used + count]
            used += count
        self.tables = tables.to(device)
        integers = partial(torch.tensor, dtype=torch.int32, device=device)
        starts = [0]
        for query, _ in lengths:
            starts.append(starts[-1] + query)
        self.starts, self.contexts = integers(starts), integers([c for _, c in lengths])
        self.scale = (latent + rotary) ** -0.5

    def run(self, op, **options):
        return op(
            self.query,
            self.rotary_query,
            self.cache,
            self.tables,
            self.starts,
            self.contexts,
            max_query_len=max(query for query, _ in self.lengths),
            max_context_len=max(context for _, context in self.lengths),
            scale=self.scale,
            **options,
        )

    def dense(self):
        """Token by token in float64."""
        query = torch.cat((self.query, self.rotary_query), dim=-1).double()
        out = []
        row = 0
        for seq, (length, context) in enumerate(self.lengths):
            entries = self.cache.double()[self.tables[seq].long()].flatten(0, 1)
            for position in range(context - length, context):
                seen = entries[: position + 1]
                weights = (query[row] @ seen.t() * self.scale).softmax(-1)
                out.append(weights @ seen[:, : self.latent])
                row += 1
        return torch.stack(out)


@pytest.mark.parametrize("name", ABSORBED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [3, 16, 20])
@pytest.mark.parametrize(
    "lengths",
    [
        [(1, 1), (1, 40), (1, 17)],
        [(2, 9), (4, 33), (1, 5)],
        [(11, 11), (1, 50), (7, 30), (3, 3)],
        [(6, 6)],
    ],
    ids=str,
)
def test_absorbed_attention(device, assert_close, name, dtype, heads, lengths):
    case = Case(device, lengths, heads=heads, latent=24, rotary=8, dtype=dtype)
    found = case.run(ABSORBED[name])
    assert found.dtype is dtype
    assert_close(found, case.dense(), dtype)


@pytest.mark.parametrize("name", ABSORBED)
def test_sizes_of_the_published_models(device, assert_close, name):
    lengths = [(1, 70), (5, 21)]
    case = Case(device, lengths, heads=16, latent=512, rotary=64, dtype=torch.bfloat16, block=32)
    assert_close(case.run(ABSORBED[name]), case.dense(), torch.bfloat16)


@pytest.mark.parametrize("name", ABSORBED)
def test_whole_prompts_can_be_left_out(device, assert_close, name):
    """Those below the bound, and those that continue a context, are computed all the same."""
    lengths = [(9, 9), (9, 12), (4, 4), (1, 1), (8, 8)]
    case = Case(device, lengths, heads=4, latent=24, rotary=8, dtype=torch.float32)
    found, expected = case.run(ABSORBED[name], whole_prompts_from=9), case.dense()
    assert_close(found[9:], expected[9:], torch.float32)


@pytest.mark.parametrize("name", EXPANDED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("head_dim", "rotary", "value_dim"), [(24, 8, 20), (16, 16, 32)])
def test_expanded_attention(device, assert_close, name, dtype, head_dim, rotary, value_dim):
    """Sequences that continue a context or are short keep what `out` held."""
    lengths = [(70, 70), (9, 12), (4, 4), (0, 3), (33, 33)]
    heads, n = 3, sum(query for query, _ in lengths)
    query = torch.randn(n, heads, head_dim + rotary, device=device).to(dtype)
    both = torch.randn(n, heads, head_dim + value_dim, device=device).to(dtype)
    key, value = both[..., :head_dim], both[..., head_dim:]
    entries = torch.randn(n, 11 + rotary, device=device).to(dtype)
    rotary_key = entries[:, 11:]
    starts = torch.tensor([0, 70, 79, 83, 83, 116], dtype=torch.int32, device=device)
    contexts = torch.tensor([c for _, c in lengths], dtype=torch.int32, device=device)
    out = torch.full((n, heads, value_dim), 7.0, device=device, dtype=dtype)
    scale = (head_dim + rotary) ** -0.5
    EXPANDED[name](query, key, rotary_key, value, starts, contexts, out, shortest=5, scale=scale)
    expected = torch.full((n, heads, value_dim), 7.0, device=device, dtype=torch.float64)
    for first, end in ((0, 70), (83, 116)):
        for row in range(first, end):
            keys = torch.cat(
                (
                    key[first : row + 1],
                    rotary_key[first : row + 1].unsqueeze(1).expand(-1, heads, -1),
                ),
                dim=-1,
            ).double()
            weights = (torch.einsum("hd,khd->hk", query[row].double(), keys) * scale).softmax(-1)
            expected[row] = torch.einsum("hk,khd->hd", weights, value[first : row + 1].double())
    assert_close(out, expected, dtype)


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_entries_are_completed_and_written(device, assert_close, name, dtype, interleaved, n):
    heads, latent, rotary, block = 3, 24, 8, 4
    packed = torch.randn(n, heads, 12 + rotary, device=device).to(dtype)
    rotary_query = packed[..., 12:]
    entries = torch.randn(n, 5 + latent + rotary, device=device).to(dtype)[:, 5:]
    weight = torch.randn(latent, device=device).to(dtype)
    angles = torch.rand(50, rotary // 2, device=device) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    positions = torch.randint(0, 50, (n,), device=device)
    cache = torch.randn(4, block, latent + rotary, device=device).to(dtype)
    slots = torch.randperm(4 * block, device=device)[:n]
    slots[3:4] = -1

    def turned(x, angle):
        pairs = x.double().unflatten(-1, (-1, 2) if interleaved else (2, -1))
        if not interleaved:
            pairs = pairs.transpose(-1, -2)
        whole = torch.complex(pairs[..., 0], pairs[..., 1]) * torch.exp(1j * angle.double())
        parts = torch.view_as_real(whole)
        return (parts if interleaved else parts.transpose(-1, -2)).flatten(-2)

    at = angles[positions]
    expected_query = turned(rotary_query, at.unsqueeze(1))
    wide = entries[:, :latent].double()
    normed = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    expected = torch.cat((normed, turned(entries[:, latent:], at)), dim=-1)
    expected_cache = cache.double().flatten(0, 1)
    expected_cache[slots[slots >= 0]] = expected[slots >= 0]

    WRITES[name](
        positions,
        rotary_query,
        entries,
        weight,
        cos_sin,
        cache,
        slots,
        eps=1e-6,
        interleaved=interleaved,
    )
    assert_close(rotary_query, expected_query, dtype, scale=2)
    assert_close(entries, expected, dtype, scale=3)
    assert_close(cache.flatten(0, 1), expected_cache, dtype, scale=3)
