"""Token embedding and language-model head, both split by vocabulary rows. The rows are padded to
the same number on every rank; callers never see the padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parallel import Slice
from formgate.engine.layers.storage import DenseMethod, LinearPart, Placement


class VocabEmbedding(Layer):
    def __init__(self, vocab_size: int, hidden_size: int, placement: Placement) -> None:
        super().__init__()
        self.parallel = placement.parallel
        part = _vocab_part(vocab_size, hidden_size, placement)
        self.rows = part.outputs["rows"]
        self.weight = DenseMethod().parameters(part)["weight"]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids int64 [n] -> [n, hidden_size]"""
        if self.parallel.is_alone:
            return F.embedding(input_ids, self.weight)
        rows = self.rows
        local = input_ids - rows.start
        inside = (local >= 0) & (local < rows.length)
        part = F.embedding(local.where(inside, 0), self.weight)
        return self.parallel.all_reduce(part.masked_fill_(~inside.unsqueeze(-1), 0.0))


def _vocab_part(vocab_size: int, hidden_size: int, placement: Placement) -> LinearPart:
    """This rank's rows of a matrix [vocab_size, hidden_size]."""
    rows = Slice.padded(vocab_size, placement.parallel)
    return LinearPart(Slice.whole(hidden_size), {"rows": rows}, placement.dtype, placement.device)


class LMHead(Layer):
    """Projects hidden states to logits. `tied`: the embedding whose matrix the head shares; such a
    head owns no weight. `scale` multiplies the logits. `softcap`: caps logits as
    `softcap * tanh(logit / softcap)`; 0: off.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        placement: Placement,
        *,
        tied: VocabEmbedding | None = None,
        scale: float = 1.0,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.scale = scale
        self.softcap = softcap
        self.parallel = placement.parallel
        self.method = placement.linear_method
        part = _vocab_part(vocab_size, hidden_size, placement)
        parameters = {"weight": tied.weight} if tied else self.method.parameters(part)
        self.tensors: dict[str, torch.Tensor] = {}
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)
            self.tensors[name] = parameter.data

    def finish_loading(self) -> None:
        # Keep the dense matrix, which may be the embedding's too.
        self.method.finish_loading(self.tensors)

    def forward(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden [m, hidden_size] -> float32 [m, vocab_size], written to `out` if given"""
        logits = self.parallel.all_gather(self.method.apply(self.tensors, hidden))
        logits = logits[:, : self.vocab_size]
        logits = logits.float() if out is None else out.copy_(logits)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits
