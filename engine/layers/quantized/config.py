"""Reads a checkpoint's `quantization_config`: which linear layers are stored how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.quantized.awq import AwqFormat
from formgate.engine.layers.quantized.compressed_tensors import UNNEEDED, formats_of
from formgate.engine.layers.quantized.dequantized import DequantizedMethod, WeightFormat
from formgate.engine.layers.quantized.eight_bit import (
    BlockFormat,
    EightBitFormat,
    EightBitMethod,
    OnlineFormat,
    ScaledFormat,
)
from formgate.engine.layers.quantized.gptq import GptqFormat, is_quantized
from formgate.engine.layers.quantized.grouped import GroupedFormat, GroupedMethod
from formgate.engine.layers.quantized.mxfp4 import Mxfp4Format
from formgate.engine.layers.storage import LinearMethod

# Module of a checkpoint -> its format; None: not quantized.
Choose = Callable[[str], WeightFormat | None]


@dataclass(frozen=True, slots=True)
class Quantization:
    """`unneeded`: last parts of the names of tensors that say nothing new."""

    name: str
    choose: Choose
    dense: LinearMethod
    dtype: torch.dtype
    device: torch.device
    unneeded: frozenset[str] = frozenset()

    def method_of(self, shards: Sequence[Sequence[str]]) -> LinearMethod:
        """The storage of a layer that stacks these checkpoint modules, each given by the names it
        may have. Raises EngineStartError if they differ in their format.
        """
        formats = []
        for names in shards:
            found = [self.choose(name) for name in names]
            formats.append(None if None in found else found[0])
        if any(one != formats[0] for one in formats):
            stacked = ", ".join(names[0] for names in shards)
            raise EngineStartError(
                f"quantization_config stores {stacked} in different formats, but they are "
                "multiplied as one matrix"
            )
        chosen = formats[0]
        return self.dense if chosen is None else self._method(chosen)

    def _method(self, stored: WeightFormat) -> LinearMethod:
        if self.device.type != "cpu":
            if isinstance(stored, GroupedFormat):
                return GroupedMethod(stored)
            if isinstance(stored, EightBitFormat) and has_float8(self.device):
                return EightBitMethod(stored)
        return DequantizedMethod(stored, self.dense, self.dtype)

    def skips(self, tensor: str) -> bool:
        return tensor.rpartition(".")[2] in self.unneeded


def read_quantization(
    declared: Mapping[str, Any] | None,
    insisted: str | None,
    *,
    dense: LinearMethod,
    dtype: torch.dtype,
    device: torch.device,
) -> Quantization | None:
    """`declared`: config.json's `quantization_config`. `insisted`: `--quantization`. None: the
    weights are not quantized. Raises EngineStartError for a scheme that is not supported or not
    the checkpoint's.
    """
    if insisted is not None and insisted not in ALIASES:
        raise _unknown(f"--quantization {insisted}")
    if not declared:
        if insisted is None:
            return None
        if insisted == "fp8":
            head = named_in(["lm_head"])
            online = OnlineFormat()
            return Quantization(
                insisted, lambda name: None if head(name) else online, dense, dtype, device
            )
        raise EngineStartError(
            f"--quantization {insisted}: the checkpoint's config.json has no quantization_config"
        )
    method = str(declared.get("quant_method", "")).lower()
    if method not in ALIASES:
        raise _unknown(f"quantization_config's quant_method {method!r}")
    scheme = ALIASES[method]
    if insisted is not None and ALIASES[insisted] != scheme:
        raise EngineStartError(
            f"--quantization {insisted}: the checkpoint is quantized by {scheme}"
        )
    try:
        choose, unneeded = SCHEMES[scheme](declared)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise EngineStartError(f"quantization_config is malformed: {error}") from error
    return Quantization(scheme, choose, dense, dtype, device, unneeded)


def _unknown(what: str) -> EngineStartError:
    return EngineStartError(f"{what} is not supported (supported: {', '.join(SCHEMES)})")


def named_in(modules: Sequence[str] | None) -> Callable[[str], bool]:
    """Whether a module's name holds one of these, as transformers reads `modules_to_not_convert`:
    a whole run of its parts, where `*` is any part.
    """
    runs = [module.strip(".").split(".") for module in modules or ()]

    def named(name: str) -> bool:
        parts = name.split(".")
        return any(
            all(wanted in ("*", part) for wanted, part in zip(run, parts[start:], strict=False))
            for run in runs
            for start in range(len(parts) - len(run) + 1)
        )

    return named


def _awq(config: Mapping[str, Any]) -> tuple[Choose, frozenset[str]]:
    stored = AwqFormat.of(config)
    left = named_in(["lm_head", *(config.get("modules_to_not_convert") or ())])
    return lambda name: None if left(name) else stored, frozenset()


def _gptq(config: Mapping[str, Any]) -> tuple[Choose, frozenset[str]]:
    stored, quantized = GptqFormat.of(config), is_quantized(config)
    # Without activation order it only counts.
    unneeded = frozenset() if stored.by_activation else frozenset({"g_idx"})
    return lambda name: stored if quantized(name) else None, unneeded


def _compressed_tensors(config: Mapping[str, Any]) -> tuple[Choose, frozenset[str]]:
    return formats_of(config), UNNEEDED


def _fp8(config: Mapping[str, Any]) -> tuple[Choose, frozenset[str]]:
    block = config.get("weight_block_size")
    static = config.get("activation_scheme", "dynamic") == "static"
    stored: WeightFormat
    if block is None:
        stored = ScaledFormat(torch.float8_e4m3fn, "tensor", static)
    else:
        rows, columns = (int(size) for size in block)
        stored = BlockFormat(rows, columns)
    named = config.get("modules_to_not_convert") or config.get("ignored_layers") or ()
    left = named_in(["lm_head", *named])
    return lambda name: None if left(name) else stored, UNNEEDED


def _mxfp4(config: Mapping[str, Any]) -> tuple[Choose, frozenset[str]]:
    """Experts alone are quantized."""
    stored, left = Mxfp4Format(), named_in(config.get("modules_to_not_convert"))
    return (
        lambda name: stored if "experts" in name.split(".") and not left(name) else None
    ), frozenset()


def has_float8(device: torch.device) -> bool:
    """True if the GPU multiplies float8 (Ada, Hopper and later)."""
    return torch.cuda.get_device_capability(device) >= (8, 9)


SCHEMES: dict[str, Callable[[Mapping[str, Any]], tuple[Choose, frozenset[str]]]] = {
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
}
# vLLM's names of its kernels, too.
ALIASES = {
    **{name: name for name in SCHEMES},
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "compressed_tensors": "compressed-tensors",
}
