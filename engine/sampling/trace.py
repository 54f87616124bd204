"""The effect of a mask on a token's distribution: the number of tokens it left, and the model's
probability that it removed. Computed only for rows that request it.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import torch

from formgate.engine.devices import to_host
from formgate.engine.messages import TokenTrace


@dataclass(frozen=True, slots=True)
class Traces:
    """On their way to the host: valid once the event of their step is done."""

    rows: list[int]
    allowed: torch.Tensor  # int64 [len(rows)]
    masked: torch.Tensor  # float32 [len(rows)]

    def fetch(self) -> dict[int, TokenTrace]:
        values = zip(self.rows, self.allowed.tolist(), self.masked.tolist(), strict=True)
        return {row: TokenTrace(allowed, masked) for row, allowed, masked in values}


def launch_traces(
    logits: torch.Tensor,
    bitmask: torch.Tensor | None,
    masked_rows: ReadSequence[int] | None,
    rows: list[int],
) -> Traces | None:
    """logits float32 [num_rows, vocab] as the model computed them; bitmask int32 [num_rows, words].
    Rows not in `masked_rows` (None: all are) count as unmasked. Returns None if `rows` is empty.
    """
    if not rows:
        return None
    index = torch.tensor(rows, dtype=torch.int64, device=logits.device)
    own = logits.index_select(0, index)  # [t, vocab]
    allowed = torch.ones_like(own, dtype=torch.bool)
    traced = [i for i, row in enumerate(rows) if masked_rows is None or row in masked_rows]
    if bitmask is not None and traced:
        places = torch.tensor(traced, dtype=torch.int64, device=logits.device)
        words = bitmask.index_select(0, index.index_select(0, places))
        allowed.index_copy_(0, places, _bits(words)[:, : own.shape[1]])
    taken = own.masked_fill(allowed, -torch.inf).logsumexp(-1) - own.logsumexp(-1)
    return Traces(rows, to_host(allowed.sum(-1)), to_host(taken.exp()))


def _bits(words: torch.Tensor) -> torch.Tensor:
    """bool [n, 32 * words]: bit `i & 31` of word `i >> 5`."""
    shifts = torch.arange(32, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 1).bool().flatten(1)
