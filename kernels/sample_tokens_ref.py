"""Sampling in plain torch: the reference for the kernels' tests, and the implementation on CPUs."""

import torch

BROKEN = -1
# On a CPU topk is much faster than a full sort, and mostly a small head holds the mass of top_p.
CPU_HEADS = (64, 1024)


def sample_tokens_ref(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns int64 [rows]: a token id, or BROKEN if the row holds NaN or no finite maximum.

    logits float32 [rows, vocab]; uniform float32 [rows] in [0, 1); temperature float32 [rows], 0 is
    greedy; top_k int64 [rows], vocab is off; top_p float32 [rows], 1 is off; min_p float32 [rows],
    0 is off. top_p applies to the mass that top_k keeps, and keeps the token that reaches it. Ties
    with the last kept token are kept.
    """
    check(logits, uniform, temperature, top_k, top_p, min_p)
    highest, tokens = logits.max(dim=-1)
    rows = (temperature > 0).nonzero().squeeze(1)
    if rows.numel():
        scaled = logits.index_select(0, rows) - highest.index_select(0, rows).unsqueeze(1)
        # Shift the maximum to 0, so that dividing by a low temperature cannot overflow.
        probs = scaled.div_(temperature.index_select(0, rows).unsqueeze(1)).softmax(-1)
        limits = [None if t is None else t[rows].unsqueeze(1) for t in (top_k, top_p, min_p)]
        threshold = _threshold(probs, *limits)
        if threshold is not None:
            probs *= probs >= threshold
        cumulative = probs.cumsum(-1)
        targets = uniform.index_select(0, rows).unsqueeze(1) * cumulative[:, -1:]
        found = torch.searchsorted(cumulative, targets, right=True)
        found.clamp_(max=logits.shape[1] - 1)  # a row of NaN is out of range
        # A parallel cumsum may rise by rounding at a token without mass. Such a token, which a mask
        # may forbid, must not be sampled.
        found = torch.where(probs.gather(1, found) > 0, found, probs.argmax(-1, keepdim=True))
        tokens.index_copy_(0, rows, found.squeeze(1))
    return torch.where(highest.isfinite(), tokens, BROKEN)


def _threshold(
    probs: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
) -> torch.Tensor | None:
    """[rows, 1]: the smallest probability kept; None: no row is limited."""
    vocab_size = probs.shape[1]
    if top_k is not None and bool((top_k >= vocab_size).all()):
        top_k = None
    if top_p is not None and bool((top_p >= 1.0).all()):
        top_p = None
    threshold: torch.Tensor | None = None
    if top_k is not None or top_p is not None:
        head = _head(probs, top_k, top_p)  # [rows, m], descending
        cumulative = head.cumsum(-1)
        last = torch.full_like(cumulative[:, :1], head.shape[1] - 1, dtype=torch.int64)
        total = torch.ones_like(cumulative[:, :1])
        off = torch.ones_like(last, dtype=torch.bool)
        if top_k is not None:
            limited = (top_k <= head.shape[1]) & (top_k < vocab_size)
            last = torch.where(limited, top_k - 1, last)
            total = torch.where(limited, cumulative.gather(1, last), total)
            off = ~limited
        if top_p is not None:
            # Keep a token if the mass before it is less than top_p.
            kept = (cumulative - head < top_p * total).sum(-1, keepdim=True)
            last = torch.minimum(last, kept.clamp_(min=1) - 1)
            off = off & (top_p >= 1.0)
        threshold = head.gather(1, last).masked_fill_(off, 0.0)
    if min_p is not None:
        relative = min_p * probs.amax(-1, keepdim=True)
        threshold = relative if threshold is None else torch.maximum(threshold, relative)
    return threshold


def _head(
    probs: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor | None
) -> torch.Tensor:
    """The largest probabilities of each row, descending; enough for top_k and top_p."""
    vocab_size = probs.shape[1]
    largest = 1
    if top_k is not None:
        largest = int(torch.where(top_k < vocab_size, top_k, 1).max())
    if top_p is None:
        return probs.topk(largest).values
    for size in CPU_HEADS:
        size = max(size, largest)
        if size >= vocab_size:
            break
        head = probs.topk(size).values
        enough = (head.sum(-1, keepdim=True) >= top_p) | (top_p >= 1.0)
        if top_k is not None:
            enough |= top_k <= size
        if bool(enough.all()):
            return head
    return probs.sort(dim=-1, descending=True).values


def check(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
) -> None:
    """Assert the arguments' dtypes and shapes."""
    assert logits.dtype == torch.float32
    for numbers in (uniform, temperature, top_k, top_p, min_p):
        assert numbers is None or numbers.shape == (logits.shape[0],)
        assert numbers is None or numbers.is_contiguous()
    assert top_k is None or top_k.dtype == torch.int64
