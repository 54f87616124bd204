"""The tensors that one forward pass needs beside the weights. Built by the model runner, read by
the attention layers; the scheduler never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from formgate.kernels.paged_attention_ref import ReferencePlan


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """A ragged batch: the query tokens of all sequences, one after the other.

    Any sequence may bring one query token (decode) or several (prefill chunk, forced tokens).
    Query token `j` of a sequence with `q` query tokens and `c` context tokens sits at position
    `c - q + j` and attends to keys `0 .. c - q + j`.
    """

    input_ids: torch.Tensor  # int64 [num_tokens]
    positions: torch.Tensor  # int64 [num_tokens]
    slot_mapping: torch.Tensor  # int64 [num_tokens]: block * block_size + offset; -1 writes nothing
    block_tables: torch.Tensor  # int32 [num_seqs, max_blocks], padded with 0
    query_start: torch.Tensor  # int32 [num_seqs + 1], cumulative query lengths
    context_lens: torch.Tensor  # int32 [num_seqs]: keys of each sequence, this step's included
    logits_indices: torch.Tensor  # int64 [num_logits]: rows of the hidden states to project
    max_query_len: int
    max_context_len: int
    # Attention by reference works out once what is the same in every layer, by sliding window.
    plans: dict[int, ReferencePlan] = field(default_factory=dict)
    # The same sequences with the tokens at `logits_indices` alone, of which each has one or none:
    # all that the last layer goes on with once it has written keys and values. None: every token.
    read: ForwardBatch | None = None
