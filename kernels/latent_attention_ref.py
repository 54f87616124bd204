"""Latent attention in plain torch: the reference for the kernel's tests, and what runs on CPUs."""

import torch

__all__ = ["latent_attention_ref"]


def latent_attention_ref(
    query: torch.Tensor,  # [n, num_heads, latent_dim], absorbed; any strides
    rotary_query: torch.Tensor,  # [n, num_heads, rotary_dim], rotated
    cache: torch.Tensor,  # [blocks, block_size, latent_dim + rotary_dim]
    block_tables: torch.Tensor,  # int32 [num_seqs, max_blocks]
    query_start: torch.Tensor,  # int32 [num_seqs + 1]
    context_lens: torch.Tensor,  # int32 [num_seqs]
    *,
    max_query_len: int,
    max_context_len: int,
    scale: float,
    whole_prompts_from: int = 0,
) -> torch.Tensor:
    """Returns [n, num_heads, latent_dim]. With `whole_prompts_from` > 0, the rows of a sequence
    whose query is its whole context, of at least that many tokens, are left out and hold zeros.
    """
    n, num_heads, latent_dim = query.shape
    starts: list[int] = query_start.tolist()
    out = torch.zeros((n, num_heads, latent_dim), dtype=query.dtype, device=query.device)
    for seq, context in enumerate(context_lens.tolist()):
        start, end = starts[seq], starts[seq + 1]
        if start == end or 0 < whole_prompts_from <= end - start == context:
            continue
        blocks = block_tables[seq, : -(-context // cache.shape[1])]
        entries = cache.index_select(0, blocks).flatten(0, 1)[:context].float()
        both = torch.cat((query[start:end], rotary_query[start:end]), dim=-1).float()
        scores = torch.matmul(both.transpose(0, 1), entries.t()).mul_(scale)  # [heads, q, context]
        positions = torch.arange(context - (end - start), context, device=query.device)
        hidden = torch.arange(context, device=query.device) > positions.unsqueeze(1)
        weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
        attended = torch.matmul(weights, entries[:, :latent_dim])
        out[start:end] = attended.transpose(0, 1).to(out.dtype)
    return out
