"""Refuses a number of ranks that a model cannot be split over, before any process starts."""

from __future__ import annotations

from formgate.engine.errors import EngineStartError
from formgate.engine.models.registry import ModelSpec

LARGEST = 64  # ranks that a message proposes


def check_model(spec: ModelSpec, size: int) -> None:
    """Raises EngineStartError, with the numbers of ranks that fit."""
    if _divides(spec, size):
        return
    fitting = [n for n in range(1, LARGEST + 1) if _divides(spec, n)]
    raise EngineStartError(
        f"--tensor-parallel-size {size} cannot divide this model's {spec.num_heads} attention "
        f"heads and {spec.num_kv_heads} key-value heads: use one of "
        f"{', '.join(map(str, fitting))}"
    )


def _divides(spec: ModelSpec, size: int) -> bool:
    """True if each rank gets equally many query heads, and whole key-value heads or one that some
    ranks share.
    """
    heads, kv_heads = spec.num_heads, spec.num_kv_heads
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)
