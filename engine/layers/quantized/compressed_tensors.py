"""The `quantization_config` of compressed-tensors: groups of modules, each with a scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.quantized.dequantized import WeightFormat
from formgate.engine.layers.quantized.eight_bit import ScaledFormat
from formgate.engine.layers.quantized.packed_format import PackedFormat

# Tensors of the format that say nothing which the config does not; scales of the KV cache.
UNNEEDED = frozenset({"weight_shape", "output_scale", "k_scale", "v_scale", "q_scale"})
STRATEGIES: dict[str | None, Literal["tensor", "channel"]] = {
    None: "tensor",
    "tensor": "tensor",
    "channel": "channel",
}
KNOWN = (
    "int weights of 4 or 8 bits (group or channel) without input_activations; float or int weights "
    "of 8 bits (tensor or channel) with them"
)


def formats_of(config: Mapping[str, Any]) -> Callable[[str], WeightFormat | None]:
    """The format of a module of the checkpoint; None: not quantized. Raises EngineStartError for a
    scheme that is not supported.
    """
    ignored = _matcher(config.get("ignore") or ())
    groups = [
        (_matcher(group["targets"]), _format_of(name, group))
        for name, group in config["config_groups"].items()
    ]

    def choose(module: str) -> WeightFormat | None:
        if ignored(module):
            return None
        return next((stored for targets, stored in groups if targets(module)), None)

    return choose


def _format_of(name: str, group: Mapping[str, Any]) -> WeightFormat:
    weights, activations = group["weights"], group.get("input_activations")
    packs = activations is None and weights.get("type") == "int"
    stored = PackedFormat.of(weights) if packs else _scaled(weights, activations)
    if stored is None:
        what = [f"{key} {weights.get(key)!r}" for key in ("type", "num_bits", "strategy")]
        raise EngineStartError(
            f"quantization_config's {name} has weights of {', '.join(what)}, "
            f"{'no ' if activations is None else ''}input_activations, which is not supported "
            f"(supported: {KNOWN})"
        )
    return stored


def _scaled(
    weights: Mapping[str, Any], activations: Mapping[str, Any] | None
) -> ScaledFormat | None:
    """None: not supported."""
    dtype = {"float": torch.float8_e4m3fn, "int": torch.int8}.get(str(weights.get("type")))
    strategy = STRATEGIES.get(weights.get("strategy"))
    symmetric = weights.get("symmetric", True) and (activations or {}).get("symmetric", True)
    bits = [one.get("num_bits") for one in (weights, activations) if one is not None]
    if dtype is None or strategy is None or not symmetric or set(bits) != {8}:
        return None
    return ScaledFormat(dtype, strategy, activations is not None and not activations["dynamic"])


def _matcher(targets: Sequence[str]) -> Callable[[str], bool]:
    """Whether a module is one of `targets`: names, `re:` patterns, or `Linear` for all."""
    patterns = [re.compile(one.removeprefix("re:")) for one in targets if one.startswith("re:")]
    names = frozenset(targets)
    return lambda module: (
        "Linear" in names
        or module in names
        or any(pattern.match(module) is not None for pattern in patterns)
    )
