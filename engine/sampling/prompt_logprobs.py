"""Logprobs of prompt tokens, computed in chunks of rows, because the logits of a whole prompt would
be larger than the model's activations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from formgate.engine.messages import PositionLogprobs
from formgate.engine.sampling.logprobs import compute_logprobs

ROWS_AT_ONCE = 256


def prompt_logprobs(
    compute_logits: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,  # [n, hidden_size]
    targets: list[int],  # n tokens; hidden row `i` predicts `targets[i]`
    num_top: int,
) -> list[PositionLogprobs]:
    found: list[PositionLogprobs] = []
    for start in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        token_ids = torch.tensor(targets[rows], device=hidden.device)
        logprobs = compute_logprobs(compute_logits(hidden[rows]), token_ids, num_top)
        found += logprobs.positions([num_top] * len(token_ids))
    return found
