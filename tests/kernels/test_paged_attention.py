import math
from functools import partial

import pytest
import torch

from formgate.kernels.paged_attention import (
    LONG_QUERY,
    paged_attention,
    paged_attention_ref,
    paged_attention_triton,
)

IMPLEMENTATIONS = {
    "ref": paged_attention_ref,
    "triton": paged_attention_triton,
    "split": partial(paged_attention_triton, num_splits=4),
    "dispatched": paged_attention,
}
implementations = pytest.mark.parametrize("name", IMPLEMENTATIONS)


class Case:
    """A ragged batch over a shuffled cache: (query length, context length) of each sequence."""

    def __init__(
        self, device, lengths, *, heads, kv_heads, head_dim, dtype=torch.float32, block=16
    ):
        num_blocks = sum(-(-context // block) for _, context in lengths) + 3
        self.lengths, self.block, self.group = lengths, block, heads // kv_heads
        n = sum(query for query, _ in lengths)
        # A view of a wider projection, as the models pass.
        packed = torch.randn(n, (heads + 2) * head_dim, device=device).to(dtype)
        self.query = packed[:, : heads * head_dim].view(n, heads, head_dim)
        shape = (num_blocks, block, kv_heads, head_dim)
        self.keys = torch.randn(shape, device=device).to(dtype)
        self.values = torch.randn(shape, device=device).to(dtype)
        order = torch.randperm(num_blocks - 1) + 1  # block 0 is what tables are padded with
        self.keys[0] = self.values[0] = math.nan if device.type == "cuda" else 1e4
        longest = max(context for _, context in lengths)
        self.tables = torch.zeros(len(lengths), -(-longest // block) + 1, dtype=torch.int32)
        used = 0
        for row, (_, context) in enumerate(lengths):
            count = -(-context // block)
            self.tables[row, :count] = order[used : used + count]
            used += count
        self.tables = self.tables.to(device)
        starts = [0]
        for query, _ in lengths:
            starts.append(starts[-1] + query)
        self.starts = torch.tensor(starts, dtype=torch.int32, device=device)
        self.contexts = torch.tensor([c for _, c in lengths], dtype=torch.int32, device=device)
        self.scale = head_dim**-0.5

    def run(self, op, **options):
        keys, values = self.keys, self.values
        if op is paged_attention_ref:  # it reads the padding, and multiplies it by zero
            keys, values = keys.nan_to_num(1e4), values.nan_to_num(1e4)
        return op(
            self.query,
            keys,
            values,
            self.tables,
            self.starts,
            self.contexts,
            max_query_len=max(query for query, _ in self.lengths),
            max_context_len=max(context for _, context in self.lengths),
            scale=self.scale,
            **options,
        )

    def dense(self, sliding_window=0, logit_softcap=0.0, sinks=None):
        """Token by token and head by head, in float64."""
        out = torch.zeros(self.query.shape, dtype=torch.float64, device=self.query.device)
        first = 0
        for row, (query_len, context) in enumerate(self.lengths):
            slots = torch.arange(context, device=self.query.device)
            blocks = self.tables[row][slots // self.block].long()
            keys = self.keys[blocks, slots % self.block].double()  # [context, kv_heads, head_dim]
            values = self.values[blocks, slots % self.block].double()
            for j in range(query_len):
                position = context - query_len + j
                low = max(position - sliding_window + 1, 0) if sliding_window else 0
                seen = slice(low, position + 1)
                for head in range(self.query.shape[1]):
                    kv_head = head // self.group
                    query = self.query[first + j, head].double()
                    scores = keys[seen, kv_head] @ query * self.scale
                    if logit_softcap:
                        scores = torch.tanh(scores / logit_softcap) * logit_softcap
                    weights = scores.softmax(0)
                    if sinks is not None:
                        extra = sinks[head].double().exp()
                        weights = scores.exp() / (scores.exp().sum() + extra)
                    out[first + j, head] = weights @ values[seen, kv_head]
            first += query_len
        return out


DECODE = [(1, 5), (1, 70), (1, 16), (1, 1)]
SHORT = [(3, 40), (1, 17), (2, 2)]
MIXED = [(1, 33), (45, 45), (1, 90), (25, 60)]


@implementations
@pytest.mark.parametrize("lengths", [DECODE, SHORT, MIXED], ids=["decode", "short", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types(device, assert_close, name, lengths, dtype):
    case = Case(device, lengths, heads=6, kv_heads=2, head_dim=32, dtype=dtype)
    assert_close(case.run(IMPLEMENTATIONS[name]), case.dense(), dtype)


@implementations
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block"),
    [(4, 4, 64, 16), (8, 1, 80, 32), (15, 3, 128, 16), (12, 6, 40, 5), (32, 1, 32, 64)],
)
def test_shapes(device, assert_close, name, heads, kv_heads, head_dim, block):
    case = Case(
        device,
        [(1, 37), (5, 20), (66, 66)],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        block=block,
    )
    assert_close(case.run(IMPLEMENTATIONS[name]), case.dense(), torch.float32)


@implementations
@pytest.mark.parametrize("lengths", [DECODE, SHORT, MIXED], ids=["decode", "short", "mixed"])
@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 7},
        {"sliding_window": 64},
        {"logit_softcap": 1.5},
        {"sliding_window": 20, "logit_softcap": 0.5},
    ],
    ids=str,
)
def test_sliding_window_and_softcap(device, assert_close, name, lengths, options):
    case = Case(device, lengths, heads=6, kv_heads=2, head_dim=16)
    assert_close(case.run(IMPLEMENTATIONS[name], **options), case.dense(**options), torch.float32)


@implementations
@pytest.mark.parametrize("lengths", [DECODE, SHORT, MIXED], ids=["decode", "short", "mixed"])
@pytest.mark.parametrize(
    "options",
    [{}, {"sliding_window": 7}, {"sliding_window": 20, "logit_softcap": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sinks(device, assert_close, name, lengths, options, dtype):
    """From a sink that takes nothing to one that takes nearly all; splits join it once."""
    case = Case(device, lengths, heads=6, kv_heads=2, head_dim=16, dtype=dtype)
    options = {**options, "sinks": torch.linspace(-80.0, 9.0, 6, device=device)}
    assert_close(case.run(IMPLEMENTATIONS[name], **options), case.dense(**options), dtype)


@implementations
def test_one_long_prefill_and_a_prefix_hit(device, assert_close, name):
    case = Case(device, [(70, 70), (70, 130)], heads=4, kv_heads=2, head_dim=32)
    assert_close(case.run(IMPLEMENTATIONS[name]), case.dense(), torch.float32)


@implementations
def test_a_prompt_long_enough_for_large_tiles(device, assert_close, name):
    lengths = [(LONG_QUERY + 3, LONG_QUERY + 40), (60, 61)]
    case = Case(device, lengths, heads=2, kv_heads=1, head_dim=16, dtype=torch.bfloat16)
    assert_close(case.run(IMPLEMENTATIONS[name]), case.dense(), torch.bfloat16)


@implementations
def test_a_sequence_without_query_tokens_changes_nothing(device, assert_close, name):
    case = Case(device, [(1, 9), (0, 12), (4, 30)], heads=4, kv_heads=2, head_dim=16)
    assert_close(case.run(IMPLEMENTATIONS[name]), case.dense(), torch.float32)


def test_heads_wider_than_the_kernel_are_refused(device):
    case = Case(device, [(1, 2)], heads=1, kv_heads=1, head_dim=264)
    with pytest.raises(ValueError, match="256"):
        case.run(paged_attention_triton)


def test_the_reference_gives_a_row_what_it_gives_it_alone():
    lengths = [(1, 40 + 61 * i) for i in range(16)]
    case = Case(torch.device("cpu"), lengths, heads=6, kv_heads=2, head_dim=64)
    together = case.run(paged_attention_ref)
    for row, (_, context) in enumerate(lengths):
        alone = paged_attention_ref(
            case.query[row : row + 1],
            case.keys,
            case.values,
            case.tables[row : row + 1],
            torch.tensor([0, 1], dtype=torch.int32),
            case.contexts[row : row + 1],
            max_query_len=1,
            max_context_len=context,
            scale=case.scale,
        )
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_decode_can_be_captured_in_a_cuda_graph(assert_close):
    case = Case(torch.device("cuda"), DECODE, heads=8, kv_heads=2, head_dim=64)
    case.run(paged_attention_triton)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.run(paged_attention_triton)
    case.query.normal_()
    graph.replay()
    assert_close(out, case.dense(), torch.float32)


@pytest.mark.parametrize("window", [0, 300])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(6, 2, 64), (16, 2, 128)])
def test_a_decoded_row_is_the_same_to_the_bit_in_any_company_on_a_cpu(
    window: int, heads: int, kv_heads: int, head_dim: int
) -> None:
    contexts = [1, 15, 16, 250, 257, 390, 401, 600, 1100]
    case = Case(
        torch.device("cpu"),
        [(1, context) for context in contexts],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )

    def attend(rows: list[int]) -> torch.Tensor:
        return paged_attention_ref(
            case.query[rows],
            case.keys,
            case.values,
            case.tables[rows],
            torch.arange(len(rows) + 1, dtype=torch.int32),
            case.contexts[rows],
            max_query_len=1,
            max_context_len=max(contexts),
            scale=case.scale,
            sliding_window=window,
        )

    alone = [attend([row]) for row in range(len(contexts))]
    threads = torch.get_num_threads()
    for rows in ([0, 8], [3, 4, 5], [7, 5, 6, 3], [8, 6, 4, 2, 0], list(range(9))):
        for count in (1, threads):
            torch.set_num_threads(count)
            together = attend(rows)
        torch.set_num_threads(threads)
        for place, row in enumerate(rows):
            assert torch.equal(together[place], alone[row][0]), (rows, row)
