"""Log-probabilities and ranks of chosen tokens, and the most likely tokens, in the model's own
distribution. It does not know how the tokens were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from formgate.engine.devices import to_host
from formgate.engine.messages import PositionLogprobs, TokenLogprob


@dataclass(frozen=True, slots=True)
class Logprobs:
    """`to_host` starts the copy to the CPU. `positions` reads the copy once it has arrived."""

    token_ids: torch.Tensor  # int64 [n], chosen
    chosen: torch.Tensor  # float32 [n]
    ranks: torch.Tensor  # int64 [n]; 1 is the most likely token of the vocabulary
    top_ids: torch.Tensor  # int64 [n, k], best first
    top: torch.Tensor  # float32 [n, k]

    def to_host(self) -> Logprobs:
        return Logprobs(
            to_host(self.token_ids),
            to_host(self.chosen),
            to_host(self.ranks),
            to_host(self.top_ids),
            to_host(self.top),
        )

    def positions(self, num_top: list[int]) -> list[PositionLogprobs]:
        """`num_top`: number of most likely tokens that each row requested."""
        rows = zip(
            self.token_ids.tolist(),
            self.chosen.tolist(),
            self.ranks.tolist(),
            self.top_ids.tolist(),
            self.top.tolist(),
            num_top,
            strict=True,
        )
        return [
            PositionLogprobs(
                TokenLogprob(token_id, chosen, rank),
                [
                    TokenLogprob(top_id, value, place)
                    for place, (top_id, value) in enumerate(
                        zip(top_ids[:count], top[:count], strict=True), start=1
                    )
                ],
            )
            for token_id, chosen, rank, top_ids, top, count in rows
        ]


def compute_logprobs(logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Logprobs:
    """logits float32 [n, vocab], as the model computed them; token_ids int64 [n], sampled tokens or
    tokens of a prompt.
    """
    chosen_logits = logits.gather(1, token_ids.unsqueeze(1))  # [n, 1]
    normalizer = logits.logsumexp(-1, keepdim=True)  # the whole log_softmax is never stored
    top = logits.topk(min(num_top, logits.shape[1]), dim=-1)
    return Logprobs(
        token_ids,
        (chosen_logits - normalizer).squeeze(1),
        (logits > chosen_logits).sum(-1) + 1,
        top.indices,
        top.values - normalizer,
    )
