"""What the trace says of a mask, against the same in float64."""

from __future__ import annotations

import pytest
import torch

from formgate.engine.sampling.sampler import Sampler
from formgate.engine.sampling.trace import launch_traces
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.sequence import Sequence

VOCAB = 70  # no multiple of 32


def words_of(allowed: torch.Tensor) -> torch.Tensor:
    """int32 [rows, words] with one word more than the vocabulary needs."""
    rows = allowed.shape[0]
    bits = torch.zeros((rows, 4, 32), dtype=torch.int64)
    bits.view(rows, -1)[:, :VOCAB] = allowed.long()
    words = (bits << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@pytest.mark.parametrize("masked_rows", [None, [1, 3]])
def test_counts_and_mass(masked_rows: list[int] | None) -> None:
    torch.manual_seed(3)
    logits = torch.randn(5, VOCAB) * 8
    allowed = torch.rand(5, VOCAB) < 0.3
    allowed[3] = False
    allowed[3, 31] = True  # the sign bit of a word
    rows = [0, 1, 3]
    traces = launch_traces(logits, words_of(allowed), masked_rows, rows)
    assert traces is not None
    found = traces.fetch()
    assert list(found) == rows
    for row in rows:
        kept = allowed[row]
        if masked_rows is not None and row not in masked_rows:
            kept = torch.ones(VOCAB, dtype=torch.bool)
        probabilities = logits[row].double().softmax(-1)
        assert found[row].allowed == int(kept.sum())
        assert found[row].masked == pytest.approx(float(probabilities[~kept].sum()), rel=1e-4)


def test_no_mask_takes_nothing_away() -> None:
    traces = launch_traces(torch.randn(2, VOCAB), None, [], [1])
    assert traces is not None
    assert traces.fetch()[1].allowed == VOCAB
    assert traces.fetch()[1].masked == 0.0


def test_rows_that_do_not_ask_are_never_looked_at() -> None:
    assert launch_traces(torch.zeros(2, VOCAB), None, [], []) is None


def sequence(**params: object) -> Sequence:
    return Sequence("r", [1, 2], 2, SamplingParams(**params))


def test_it_is_the_models_own_distribution_that_is_traced() -> None:
    """Before temperature, bias and penalties; other rows of the batch are as they were."""
    sampler = Sampler(vocab_size=VOCAB, eos_token_ids=[0], device=torch.device("cpu"))
    logits = torch.randn(2, VOCAB)
    allowed = torch.zeros(2, VOCAB, dtype=torch.bool)
    allowed[:, [5, 9]] = True
    sequences = [
        sequence(temperature=0.0, trace=True, logit_bias={5: 90.0}),
        sequence(temperature=0.0),
    ]
    tokens = sampler.sample(logits.clone(), sequences, words_of(allowed))
    assert list(tokens.traces) == [0]
    assert tokens.token_ids[0] == 5
    outside = 1 - logits[0].double().softmax(-1)[[5, 9]].sum()
    assert tokens.traces[0].allowed == 2
    assert tokens.traces[0].masked == pytest.approx(float(outside), rel=1e-4)
