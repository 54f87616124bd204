"""GPTQ checkpoints (Frantar et al., arXiv:2210.17323) as AutoGPTQ and GPTQModel write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import WeightParameter
from formgate.engine.layers.quantized.group_index import common_groups, group_index
from formgate.engine.layers.quantized.grouped import (
    GroupedWeight,
    by_group,
    random_words,
    small_scales,
    unpack_integers,
)
from formgate.engine.layers.storage import LinearPart, StoredTensor


@dataclass(frozen=True, slots=True)
class GptqFormat:
    """With n values in a word: `qweight` int32 [in_features / n, out_features], `qzeros` int32
    [groups, out_features / n], `scales` [groups, out_features], `g_idx` int32 [in_features] if
    `by_activation`. Zero points are stored less `zero_offset`.
    """

    bits: int
    group_size: int
    by_activation: bool
    zero_offset: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> GptqFormat:
        """Raises EngineStartError for a variant that is not supported."""
        bits, form = config.get("bits"), str(config.get("checkpoint_format", "gptq"))
        if bits not in (4, 8) or form not in ("gptq", "gptq_v2"):
            raise EngineStartError(
                f"GPTQ with bits {bits}, checkpoint_format {form!r} is not supported (supported: "
                "bits 4 or 8, checkpoint_format 'gptq' or 'gptq_v2')"
            )
        size = int(config["group_size"])
        return cls(bits, size, bool(config.get("desc_act")) and size != -1, int(form != "gptq_v2"))

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        per_word = 32 // self.bits
        split = not self.by_activation  # else any rank's inputs may belong to any group
        stored = (
            StoredTensor(
                "qweight",
                (part.inputs.length // per_word, part.out_features),
                torch.int32,
                output_dim=1,
                input_dim=0,
                input_divisor=per_word,
                dummy=random_words,
            ),
            by_group(
                "qzeros",
                part,
                self.group_size,
                torch.int32,
                per_word=per_word,
                dummy=_middle_less_one,
                split=split,
            ),
            by_group(
                "scales", part, self.group_size, torch.float32, dummy=small_scales, split=split
            ),
        )
        parameters = {one.name: one.parameter(part) for one in stored}
        if self.by_activation:
            parameters["g_idx"] = group_index(part, self.group_size)
        return parameters

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> GroupedWeight:
        values = unpack_integers(tensors["qweight"], self.bits, dim=0).t().contiguous()
        zeros = unpack_integers(tensors["qzeros"], self.bits, dim=1)
        zeros = (zeros + self.zero_offset) & (2**self.bits - 1)
        scales = tensors["scales"]
        groups = common_groups(tensors["g_idx"], len(scales)) if self.by_activation else None
        return GroupedWeight(values, scales, zeros, groups)

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.unpack(tensors).dequantize()


def _middle_less_one(target: torch.Tensor, generator: torch.Generator) -> None:
    """Dummy packed zero points of 4 bits: 8, less the offset."""
    target.fill_(0x77777777)


def is_quantized(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether the config quantizes a module of the checkpoint. Raises EngineStartError for rules
    that are not supported.
    """
    in_blocks = config.get("modules_in_block_to_quantize")
    named = None if not in_blocks else {name for group in in_blocks for name in group}
    head = bool(config.get("lm_head"))
    rules = dict(config.get("dynamic") or {})
    if others := [rule for rule in rules if not rule.startswith("-:")]:
        raise EngineStartError(
            f"quantization_config's dynamic rule {others[0]!r} is not supported (supported: '-:' "
            "rules, which leave modules out)"
        )
    left_out = [re.compile(rule.removeprefix("-:")) for rule in rules]

    def quantized(module: str) -> bool:
        if module == "lm_head":
            return head
        if any(pattern.match(module) for pattern in left_out):
            return False
        return named is None or any(module.endswith(f".{name}") for name in named)

    return quantized
