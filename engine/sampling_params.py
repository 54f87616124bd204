"""Sampling parameters of one sequence. The gateway validates them; the engine trusts them."""

from __future__ import annotations

import msgspec


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Order of application: bad_words, allowed_token_ids and logit_bias; repetition, frequency and
    presence penalties; the constraint's mask; min_tokens; temperature, top_k, top_p, min_p; the
    draw. min_tokens withholds EOS and stop ids, unless the mask leaves nothing else.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0  # 0.0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None  # the same seed and prompt give the same tokens, in any batch
    stop_token_ids: tuple[int, ...] = ()  # beside the model's own EOS ids
    ignore_eos: bool = False
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that must not be completed
    allowed_token_ids: tuple[int, ...] | None = None
    logprobs: int | None = None  # k: of the sampled token and the k most likely; None: off
    prompt_logprobs: int | None = None  # k: of each prompt token and the k most likely; None: off
    trace: bool = False  # report the mask's effect on each token's distribution
