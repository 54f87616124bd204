"""Rotary position embedding (RoFormer, arXiv:2104.09864): the float32 table of cosines and sines of
every position, with the same frequencies as transformers for each kind of scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from formgate.engine.layers.layer import Layer


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Parameters of the rotary embedding. Fields that `kind` does not use keep their defaults."""

    kind: str
    theta: float
    rotary_dim: int
    max_position: int  # rows of the table
    interleaved: bool = False  # pairs neighbouring dimensions, not those half a head apart
    factor: float = 1.0
    original_max_position: int = 0
    # llama3
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    # yarn
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


def _inverse_frequencies(rope: RopeSpec) -> torch.Tensor:  # [rotary_dim / 2]
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim
    return 1.0 / (rope.theta**exponents)


def _none(rope: RopeSpec) -> tuple[torch.Tensor, float]:
    """Turns nothing: the layer knows no positions (NoPE, arXiv:2305.19466)."""
    return torch.zeros(rope.rotary_dim // 2), 1.0


def _default(rope: RopeSpec) -> tuple[torch.Tensor, float]:
    return _inverse_frequencies(rope), 1.0


def _linear(rope: RopeSpec) -> tuple[torch.Tensor, float]:
    return _inverse_frequencies(rope) / rope.factor, 1.0


def _llama3(rope: RopeSpec) -> tuple[torch.Tensor, float]:
    """Llama 3.1: short wavelengths stay, long ones are stretched by `factor`, and those between are
    interpolated.
    """
    frequencies = _inverse_frequencies(rope)
    turns = rope.original_max_position * frequencies / (2 * math.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies, 1.0


def _yarn(rope: RopeSpec) -> tuple[torch.Tensor, float]:
    """YaRN (arXiv:2309.00071), with DeepSeek's `mscale` pair."""
    frequencies = _inverse_frequencies(rope)

    def dimension_of(num_turns: float) -> float:
        """The (fractional) dimension that makes `num_turns` turns over the original context."""
        wave = rope.original_max_position / (num_turns * 2 * math.pi)
        return rope.rotary_dim * math.log(wave) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    if low == high:
        high += 0.001
    stretched = (torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - low) / (high - low)
    stretched = stretched.clamp(0.0, 1.0)
    blended = frequencies / rope.factor * stretched + frequencies * (1 - stretched)
    return blended, _yarn_attention_factor(rope)


def _yarn_attention_factor(rope: RopeSpec) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(mscale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * mscale * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


ROPE_KINDS: dict[str, Callable[[RopeSpec], tuple[torch.Tensor, float]]] = {
    "none": _none,
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def cos_sin_table(rope: RopeSpec) -> torch.Tensor:
    """float32 [max_position, rotary_dim]: each row is a position's cosines, then its sines."""
    frequencies, attention_factor = ROPE_KINDS[rope.kind](rope)
    angles = torch.outer(torch.arange(rope.max_position, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * attention_factor


def no_rope(rope: RopeSpec) -> RopeSpec:
    """For a layer without positions in a model that has `rope` elsewhere."""
    return RopeSpec("none", rope.theta, rotary_dim=2, max_position=rope.max_position)


class Rotary(Layer):
    """A table, shared by all layers of a model that have the same `RopeSpec`."""

    def __init__(self, rope: RopeSpec, device: torch.device) -> None:
        super().__init__()
        self.interleaved = rope.interleaved
        # Computed on the CPU, because a GPU's cosine of a large angle differs in the last bits.
        self.cos_sin = cos_sin_table(rope).to(device)  # float32 [max_position, rotary_dim]
