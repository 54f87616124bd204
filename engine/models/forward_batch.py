"""The tensors that one forward pass needs beside the weights. Built by the model runner; the
scheduler never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from formgate.engine.attention.metadata import AttentionMetadata


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """A ragged batch: the query tokens of all sequences, one after the other. Any sequence may
    bring one query token (decode) or several (prefill chunk, forced tokens).
    """

    input_ids: torch.Tensor  # int64 [num_tokens]
    positions: torch.Tensor  # int64 [num_tokens]
    logits_indices: torch.Tensor  # int64 [num_logits]: rows of the hidden states to project
    attention: AttentionMetadata
    # The metadata of the tokens at `logits_indices` alone: all that the last layer goes on with
    # once it has written keys and values. None: every token.
    read: AttentionMetadata | None = None
