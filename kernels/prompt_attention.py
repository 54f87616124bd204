"""Causal attention of whole prompts over keys and values that lie beside their queries, not in the
cache: the expanded form of latent attention (DeepSeek-V2, arXiv:2405.04434). A key is a head's own
part and a rotary part that all heads share; values have a size of their own.

Only sequences whose query is their whole context, of at least `shortest` tokens, are computed.
"""

import torch

from formgate.kernels.jit import is_float_tensor, tl, triton

__all__ = ["prompt_attention", "prompt_attention_ref", "prompt_attention_triton"]


def prompt_attention_ref(
    query: torch.Tensor,  # [n, num_heads, head_dim + rotary_dim], rotated; any strides
    key: torch.Tensor,  # [n, num_heads, head_dim]
    rotary_key: torch.Tensor,  # [n, rotary_dim], rotated
    value: torch.Tensor,  # [n, num_heads, value_dim]
    query_start: torch.Tensor,  # int32 [num_seqs + 1]
    context_lens: torch.Tensor,  # int32 [num_seqs]
    out: torch.Tensor,  # [n, num_heads, value_dim]
    *,
    shortest: int,
    scale: float,
) -> None:
    """Writes the rows of those sequences to `out`; the others stay."""
    head_dim = key.shape[2]
    starts: list[int] = query_start.tolist()
    for seq, context in enumerate(context_lens.tolist()):
        start, end = starts[seq], starts[seq + 1]
        if not shortest <= end - start == context:
            continue
        queries = query[start:end].float().transpose(0, 1)
        scores = torch.matmul(queries[..., :head_dim], key[start:end].float().permute(1, 2, 0))
        scores += torch.matmul(queries[..., head_dim:], rotary_key[start:end].float().t())
        positions = torch.arange(context, device=query.device)
        hidden = positions > positions.unsqueeze(1)
        weights = scores.mul_(scale).masked_fill_(hidden, float("-inf")).softmax(-1)
        attended = torch.matmul(weights, value[start:end].float().transpose(0, 1))
        out[start:end] = attended.transpose(0, 1).to(out.dtype)


@triton.jit
def _prompt_kernel(
    query_ptr,
    key_ptr,
    rotary_key_ptr,
    value_ptr,
    query_start_ptr,
    context_lens_ptr,
    out_ptr,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    rotary_stride,
    value_stride,
    value_head_stride,
    num_seqs,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    SHORTEST: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    HEAD_DIMS: tl.constexpr,
    ROTARY_DIMS: tl.constexpr,
    VALUE_DIMS: tl.constexpr,
) -> None:
    """Grid (tiles, heads): TOKENS query tokens of a sequence, with one head."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    tile = tl.program_id(0)
    head = tl.program_id(1)
    # Sequence i starts at tile query_start[i] // TOKENS + i: the grid follows from the shapes.
    low = 0
    high = num_seqs
    while low < high - 1:
        middle = (low + high) // 2
        if tl.load(query_start_ptr + middle) // TOKENS + middle <= tile:
            low = middle
        else:
            high = middle
    start = tl.load(query_start_ptr + low)
    query_len = tl.load(query_start_ptr + low + 1) - start
    first = (tile - (start // TOKENS + low)) * TOKENS
    whole = (query_len == tl.load(context_lens_ptr + low)) & (query_len >= SHORTEST)
    if whole & (first < query_len):
        tokens = first + tl.arange(0, TOKENS)
        inside = tokens < query_len
        dims = tl.arange(0, HEAD_DIMS)
        rotary_dims = tl.arange(0, ROTARY_DIMS)
        value_dims = tl.arange(0, VALUE_DIMS)
        query_row = query_ptr + (start + tokens).to(tl.int64) * query_stride
        query_row += head * query_head_stride
        query = tl.load(
            query_row[:, None] + dims[None, :],
            mask=inside[:, None] & (dims < HEAD_DIM)[None, :],
            other=0.0,
        )
        rotary_query = tl.load(
            query_row[:, None] + HEAD_DIM + rotary_dims[None, :],
            mask=inside[:, None] & (rotary_dims < ROTARY)[None, :],
            other=0.0,
        )
        highest = tl.full((TOKENS,), float("-inf"), tl.float32)
        total = tl.zeros((TOKENS,), tl.float32)
        acc = tl.zeros((TOKENS, VALUE_DIMS), tl.float32)
        factor = scale * LOG2_E
        for base in range(0, tl.minimum(first + TOKENS, query_len), KEYS):
            keys = base + tl.arange(0, KEYS)
            key_inside = keys < query_len
            at = (start + keys).to(tl.int64)
            key = tl.load(
                key_ptr + at[None, :] * key_stride + head * key_head_stride + dims[:, None],
                mask=key_inside[None, :] & (dims < HEAD_DIM)[:, None],
                other=0.0,
            )
            rotary_key = tl.load(
                rotary_key_ptr + at[None, :] * rotary_stride + rotary_dims[:, None],
                mask=key_inside[None, :] & (rotary_dims < ROTARY)[:, None],
                other=0.0,
            )
            value = tl.load(
                value_ptr
                + at[:, None] * value_stride
                + head * value_head_stride
                + value_dims[None, :],
                mask=key_inside[:, None] & (value_dims < VALUE_DIM)[None, :],
                other=0.0,
            )
            scores = tl.dot(query, key, input_precision="ieee")
            scores = tl.dot(rotary_query, rotary_key, scores, input_precision="ieee")
            visible = key_inside[None, :] & (keys[None, :] <= tokens[:, None])
            scores = tl.where(visible, scores * factor, float("-inf"))
            # The first key is visible to every row, so `new_highest` is finite.
            new_highest = tl.maximum(highest, tl.max(scores, axis=1))
            weights = tl.exp2(scores - new_highest[:, None])
            fade = tl.exp2(highest - new_highest)
            total = total * fade + tl.sum(weights, axis=1)
            acc = tl.dot(
                weights.to(value.dtype), value, acc * fade[:, None], input_precision="ieee"
            )
            highest = new_highest
        out_rows = (start + tokens).to(tl.int64) * HEADS + head
        tl.store(
            out_ptr + out_rows[:, None] * VALUE_DIM + value_dims[None, :],
            (acc / total[:, None]).to(out_ptr.dtype.element_ty),
            mask=inside[:, None] & (value_dims < VALUE_DIM)[None, :],
        )


def prompt_attention_triton(
    query: torch.Tensor,
    key: torch.Tensor,
    rotary_key: torch.Tensor,
    value: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    shortest: int,
    scale: float,
) -> None:
    """As `prompt_attention_ref`. Nothing synchronizes."""
    n, num_heads, head_dim = key.shape
    rotary_dim, value_dim = rotary_key.shape[1], value.shape[2]
    num_seqs = context_lens.shape[0]
    assert is_float_tensor(query)
    assert query.dtype == key.dtype == rotary_key.dtype == value.dtype == out.dtype
    assert query.shape == (n, num_heads, head_dim + rotary_dim)
    assert out.shape == value.shape == (n, num_heads, value_dim)
    assert query.stride(2) == key.stride(2) == rotary_key.stride(1) == value.stride(2) == 1
    assert out.is_contiguous()
    assert query_start.shape == (num_seqs + 1,)
    if n == 0:
        return
    wide = query.dtype == torch.float32
    tokens = 32 if wide else 128
    _prompt_kernel[(n // tokens + num_seqs, num_heads)](
        query,
        key,
        rotary_key,
        value,
        query_start,
        context_lens,
        out,
        *query.stride()[:2],
        *key.stride()[:2],
        rotary_key.stride(0),
        *value.stride()[:2],
        num_seqs,
        scale,
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        ROTARY=rotary_dim,
        VALUE_DIM=value_dim,
        SHORTEST=shortest,
        TOKENS=tokens,
        KEYS=32 if wide else 64,
        HEAD_DIMS=max(triton.next_power_of_2(head_dim), 16),
        ROTARY_DIMS=max(triton.next_power_of_2(rotary_dim), 16),
        VALUE_DIMS=max(triton.next_power_of_2(value_dim), 16),
        num_warps=4 if wide else 8,
        num_stages=2,
    )


def prompt_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    rotary_key: torch.Tensor,
    value: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    shortest: int,
    scale: float,
) -> None:
    """The Triton kernel on CUDA, `prompt_attention_ref` elsewhere."""
    op = prompt_attention_triton if query.is_cuda else prompt_attention_ref
    op(
        query,
        key,
        rotary_key,
        value,
        query_start,
        context_lens,
        out,
        shortest=shortest,
        scale=scale,
    )
