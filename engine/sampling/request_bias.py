"""What a request's own fields change in its logits: logit_bias, allowed_token_ids and bad_words. A
request's part is made once, as one client's 2,048 sequences of 1,024 words each must not be read
anew in each step, which is everybody's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.devices import to_device
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.sequence import Sequence

Pairs = tuple[torch.Tensor, torch.Tensor]  # rows and token ids, each int64 [n]


def has_bias(params: SamplingParams) -> bool:
    return bool(params.logit_bias or params.bad_words) or params.allowed_token_ids is not None


@dataclass(frozen=True, slots=True, eq=False)
class RequestBias:
    """Of one request. Ids past the vocabulary are left out."""

    allowed: NDArray[np.int64] | None  # None: all tokens
    biased: NDArray[np.int64]
    bias: NDArray[np.float32]
    banned: NDArray[np.int64]  # the words of one token
    # The words of several: what their last tokens must not follow -> these last tokens.
    endings: dict[tuple[int, ...], list[int]]
    lengths: tuple[int, ...]  # of the keys of `endings`

    @classmethod
    def of(cls, params: SamplingParams, vocab_size: int) -> RequestBias:
        endings: dict[tuple[int, ...], list[int]] = {}
        for word in params.bad_words:
            if len(word) > 1 and word[-1] < vocab_size:
                endings.setdefault(word[:-1], []).append(word[-1])
        bias = params.logit_bias or {}
        known = [token for token in bias if token < vocab_size]
        allowed = params.allowed_token_ids
        return cls(
            allowed=None if allowed is None else _ids(set(allowed), vocab_size),
            biased=_ids(known, vocab_size),
            bias=np.array([bias[token] for token in known], np.float32),
            banned=_ids((word[0] for word in params.bad_words if len(word) == 1), vocab_size),
            endings=endings,
            lengths=tuple(sorted({len(beginning) for beginning in endings})),
        )

    def banned_after(self, sequence: Sequence) -> list[int]:
        """The tokens that would complete a word of several tokens."""
        found: list[int] = []
        for length in self.lengths:
            if length > sequence.num_output_tokens:
                break
            found += self.endings.get(tuple(sequence.token_ids[-length:]), ())
        return found


@dataclass(frozen=True, slots=True, eq=False)
class BatchBias:
    """Of a batch's rows, as far as their outputs do not matter."""

    limited_rows: torch.Tensor | None  # int64 [m], those with allowed tokens only
    allowed: Pairs | None
    biased: Pairs | None
    bias: torch.Tensor | None  # float32 [n]
    banned: Pairs | None

    @classmethod
    def of(cls, parts: ReadSequence[tuple[int, RequestBias]], device: torch.device) -> BatchBias:
        """`parts`: rows and their requests' parts."""
        limited = [(row, part.allowed) for row, part in parts if part.allowed is not None]
        values = [part.bias for _, part in parts if part.bias.size]
        return cls(
            limited_rows=_tensor(np.array([row for row, _ in limited], np.int64), device),
            allowed=_pairs(limited, device),
            biased=_pairs(((row, part.biased) for row, part in parts), device),
            bias=_tensor(np.concatenate(values), device) if values else None,
            banned=_pairs(((row, part.banned) for row, part in parts), device),
        )

    def apply(self, logits: torch.Tensor) -> None:
        """Change logits float32 [rows, vocab] in place."""
        if self.limited_rows is not None:
            kept = None if self.allowed is None else logits[self.allowed]
            logits.index_fill_(0, self.limited_rows, -math.inf)
            if kept is not None and self.allowed is not None:
                logits[self.allowed] = kept
        if self.biased is not None and self.bias is not None:
            logits.index_put_(self.biased, self.bias, accumulate=True)
        if self.banned is not None:
            logits[self.banned] = -math.inf


def _ids(tokens: Iterable[int], vocab_size: int) -> NDArray[np.int64]:
    return np.array([token for token in tokens if token < vocab_size], np.int64)


def _pairs(parts: Iterable[tuple[int, NDArray[np.int64]]], device: torch.device) -> Pairs | None:
    given = [(row, tokens) for row, tokens in parts if tokens.size]
    if not given:
        return None
    rows = np.repeat([row for row, _ in given], [tokens.size for _, tokens in given])
    tokens = np.concatenate([tokens for _, tokens in given])
    pairs = torch.from_numpy(np.stack((rows.astype(np.int64), tokens)))
    first, second = to_device(pairs, device).unbind(0)
    return first, second


def _tensor(numbers: NDArray[np.int64 | np.float32], device: torch.device) -> torch.Tensor | None:
    return to_device(torch.from_numpy(numbers), device) if numbers.size else None
