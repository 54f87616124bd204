"""Token embedding and language-model head, both split by vocabulary rows. The rows are padded so
that every rank holds equally many; the padding never reaches a caller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parallel import Slice
from formgate.engine.layers.parameter import WeightParameter, WeightShapeError, copy_weight
from formgate.engine.layers.storage import Placement


class VocabWeight(WeightParameter):
    """Rows `rows.start ..` of a matrix [vocab_size, hidden_size]; rows past the end are zero."""

    rows: Slice
    vocab_size: int

    @classmethod
    def empty(cls, vocab_size: int, hidden_size: int, placement: Placement) -> VocabWeight:
        size = placement.parallel.size
        rows = Slice.of_rank(-(-vocab_size // size) * size, placement.parallel)
        data = torch.empty(rows.length, hidden_size, dtype=placement.dtype, device=placement.device)
        parameter = cls(data)
        assert isinstance(parameter, VocabWeight)
        parameter.rows = rows
        parameter.vocab_size = vocab_size
        parameter.weight_loader = parameter.load_rows
        return parameter

    def load_rows(self, loaded: torch.Tensor, shard: str | None) -> None:
        assert shard is None
        expected = (self.vocab_size, self.shape[1])
        if loaded.shape != expected:
            raise WeightShapeError(loaded.shape, expected)
        kept = loaded[self.rows.start : self.rows.start + self.rows.length]
        copy_weight(self.data[: len(kept)], kept)
        self.data[len(kept) :].zero_()


class VocabEmbedding(Layer):
    def __init__(self, vocab_size: int, hidden_size: int, placement: Placement) -> None:
        super().__init__()
        self.parallel = placement.parallel
        self.weight = VocabWeight.empty(vocab_size, hidden_size, placement)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids int64 [n] -> [n, hidden_size]"""
        if self.parallel.size == 1:
            return F.embedding(input_ids, self.weight)
        rows = self.weight.rows
        local = input_ids - rows.start
        inside = (local >= 0) & (local < rows.length)
        part = F.embedding(local.where(inside, 0), self.weight)
        return self.parallel.all_reduce(part.masked_fill_(~inside.unsqueeze(-1), 0.0))


class LMHead(Layer):
    """`tied`: the embedding whose matrix is used again; such a head owns no weight."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        placement: Placement,
        *,
        tied: VocabEmbedding | None = None,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.softcap = softcap
        self.parallel = placement.parallel
        self.method = placement.linear_method
        self.weight = (
            VocabWeight.empty(vocab_size, hidden_size, placement) if tied is None else tied.weight
        )
        self.tensors = {"weight": self.weight.data}

    def finish_loading(self) -> None:
        # The plain matrix stays: it may be the embedding's too.
        self.method.finish_loading(self.tensors)

    def forward(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden [m, hidden_size] -> float32 [m, vocab_size], written to `out` if there is one"""
        logits = self.parallel.all_gather(self.method.apply(self.tensors, hidden))
        logits = logits[:, : self.vocab_size]
        logits = logits.float() if out is None else out.copy_(logits)
        if self.softcap:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits
