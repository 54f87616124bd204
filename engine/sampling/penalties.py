"""Repetition, frequency and presence penalties. Token counts of the last batch's sequences are kept
and updated by the new tokens only.
"""

from __future__ import annotations

import torch

from formgate.engine.devices import to_device
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.sequence import Sequence


def is_penalized(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1.0
        or params.frequency_penalty != 0.0
        or params.presence_penalty != 0.0
    )


class TokenCounts:
    """Token counts of the sequences that were passed to the last `update`, one row each. A sequence
    that leaves the batch and returns is counted anew.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.in_prompt = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)
        self.in_output = torch.zeros((0, vocab_size), dtype=torch.float32, device=device)
        self._sequences: list[Sequence] = []
        self._num_counted: list[int] = []  # output tokens of each

    def update(self, sequences: list[Sequence]) -> None:
        """Count the output tokens that are new since the last call."""
        if not _same(sequences, self._sequences):
            self._rebuild(sequences)
        rows: list[int] = []
        tokens: list[int] = []
        for row, sequence in enumerate(sequences):
            if self._num_counted[row] > sequence.num_output_tokens:  # tokens were dropped
                self.in_output[row] = 0.0
                self._num_counted[row] = 0
            new = sequence.token_ids[sequence.num_prompt_tokens + self._num_counted[row] :]
            rows += [row] * len(new)
            tokens += new
            self._num_counted[row] += len(new)
        if rows:
            index = to_device(torch.tensor((rows, tokens)), self.device)
            ones = torch.ones(len(rows), device=self.device)
            self.in_output.index_put_((index[0], index[1]), ones, accumulate=True)

    def _rebuild(self, sequences: list[Sequence]) -> None:
        shape = (len(sequences), self.vocab_size)
        in_prompt = torch.zeros(shape, dtype=torch.bool, device=self.device)
        in_output = torch.zeros(shape, dtype=torch.float32, device=self.device)
        num_counted = [0] * len(sequences)
        old_rows = {id(sequence): row for row, sequence in enumerate(self._sequences)}
        kept: list[tuple[int, int]] = []
        rows: list[int] = []
        tokens: list[int] = []
        for row, sequence in enumerate(sequences):
            old = old_rows.get(id(sequence))
            if old is not None:
                kept.append((row, old))
                num_counted[row] = self._num_counted[old]
                continue
            prompt = set(sequence.token_ids[: sequence.num_prompt_tokens])
            rows += [row] * len(prompt)
            tokens += prompt
        if kept:
            new, old_index = to_device(torch.tensor(kept), self.device).unbind(1)
            in_prompt[new] = self.in_prompt[old_index]
            in_output[new] = self.in_output[old_index]
        if rows:
            index = to_device(torch.tensor((rows, tokens)), self.device)
            in_prompt[index[0], index[1]] = True
        self.in_prompt, self.in_output = in_prompt, in_output
        self._sequences, self._num_counted = list(sequences), num_counted


class Penalties:
    """The penalties of the penalized rows of a batch, as column tensors."""

    def __init__(self, rows: list[int], sequences: list[Sequence], device: torch.device) -> None:
        self.rows = to_device(torch.tensor(rows), device)
        self.sequences = [sequences[row] for row in rows]
        params = [sequence.params for sequence in self.sequences]
        self.repetition = _column([p.repetition_penalty for p in params], 1.0, device)
        self.frequency = _column([p.frequency_penalty for p in params], 0.0, device)
        self.presence = _column([p.presence_penalty for p in params], 0.0, device)

    def apply(self, logits: torch.Tensor, counts: TokenCounts) -> None:
        """Change float32 logits [batch, vocab] in place. The repetition penalty counts prompt and
        output, as Hugging Face does; frequency and presence count the output only, as OpenAI does.
        """
        counts.update(self.sequences)
        penalized = logits.index_select(0, self.rows)
        occurred = counts.in_output > 0
        if self.repetition is not None:
            scale = torch.where(penalized > 0, 1.0 / self.repetition, self.repetition)
            scaled = penalized * scale
            penalized = torch.where(occurred | counts.in_prompt, scaled, penalized)
        if self.frequency is not None:
            penalized -= self.frequency * counts.in_output
        if self.presence is not None:
            penalized -= self.presence * occurred
        logits.index_copy_(0, self.rows, penalized)


def _column(values: list[float], off: float, device: torch.device) -> torch.Tensor | None:
    """float32 [rows, 1]; None if every value is `off`"""
    if all(value == off for value in values):
        return None
    return to_device(torch.tensor(values, dtype=torch.float32), device).unsqueeze(1)


def _same(first: list[Sequence], second: list[Sequence]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
