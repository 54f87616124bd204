"""adapter_config.json of PEFT (https://huggingface.co/docs/peft/package_reference/lora): the ranks
and scales of an adapter. What formgate does not serve is refused by the field's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formgate.engine.adapter import AdapterError

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 1 << 16

# Fields that must be false, empty or absent, and why.
REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA is not supported",
    "use_qalora": "QA-LoRA is not supported",
    "lora_bias": "biases of adapters are not supported",
    "modules_to_save": "whole modules (a head or an embedding) are not supported, save none",
    "trainable_token_indices": "trained tokens of the embedding are not supported",
    "target_parameters": "adapters of parameters, such as those of experts, are not supported",
    "layer_replication": "replicated layers are not supported",
    "alora_invocation_tokens": "activated LoRA is not supported",
}
# Initializations that change the base model's weights, too.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Of a pattern that is a regular expression and no plain name.
SPECIAL = frozenset("^$*+?()[]{}|\\")


class Pattern:
    """Numbers for modules, each by the end of its name. A look-up takes as long as the module's
    name is, however many names a file lists: it holds the interpreter's lock beside the steps.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._found = {name: (at, value) for at, (name, value) in enumerate(numbers.items())}

    def of(self, module: str, default: float) -> float:
        """The number of the first listed name that the module's ends with, at a dot."""
        parts = module.split(".")
        ends = (".".join(parts[at:]) for at in range(len(parts)))
        found = [self._found[end] for end in ends if end in self._found]
        return min(found)[1] if found else default


@dataclass(frozen=True, slots=True)
class PeftConfig:
    rank: int
    alpha: float
    rslora: bool  # https://arxiv.org/abs/2312.03732
    rank_pattern: Pattern
    alpha_pattern: Pattern

    def rank_of(self, module: str) -> int:
        """`module`: its name in the checkpoint."""
        return int(self.rank_pattern.of(module, self.rank))

    def scale_of(self, module: str, rank: int) -> float:
        """The factor of B @ A."""
        alpha = self.alpha_pattern.of(module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_peft_config(folder: Path) -> PeftConfig:
    """Raises AdapterError, which names the file and the field."""
    fields = _read_object(folder / CONFIG_FILE)
    where = f"{folder / CONFIG_FILE}: "
    if (kind := fields.get("peft_type")) != "LORA":
        raise AdapterError(f"{where}peft_type: {_shown(kind)} is not supported, only LORA is")
    for name, reason in REFUSED.items():
        if fields.get(name):
            raise AdapterError(f"{where}{name}: {reason}")
    if (bias := fields.get("bias", "none")) != "none":
        raise AdapterError(f"{where}bias: {_shown(bias)} is not supported, only none is")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise AdapterError(
            f"{where}init_lora_weights: {_shown(start)} changes the base model's weights; save the "
            "adapter as plain LoRA"
        )
    rank = fields.get("r")
    if not isinstance(rank, int) or not _is_rank(rank):
        raise AdapterError(f"{where}r: {_shown(rank)} is no rank")
    alpha = fields.get("lora_alpha", 8)
    if not _is_number(alpha):
        raise AdapterError(f"{where}lora_alpha: {_shown(alpha)} is no number")
    ranks, alphas = (_pattern(fields, name, where) for name in ("rank_pattern", "alpha_pattern"))
    for name, value in ranks.items():
        if not _is_rank(value):
            raise AdapterError(f"{where}rank_pattern: {_shown(value)} of {_shown(name)} is no rank")
    return PeftConfig(
        rank, float(alpha), bool(fields.get("use_rslora")), Pattern(ranks), Pattern(alphas)
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AdapterError(f"{path.parent} holds no {path.name}")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise AdapterError(f"{path} is no JSON") from None
    if not isinstance(value, dict):
        raise AdapterError(f"{path} holds no JSON object")
    return value


def _pattern(fields: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Names of modules and their numbers. PEFT takes regular expressions too, which an adapter that
    a client names must not bring along.
    """
    given = fields.get(name) or {}
    if not isinstance(given, dict):
        raise AdapterError(f"{where}{name}: {_shown(given)} is no object")
    for key, value in given.items():
        if SPECIAL & set(key):
            raise AdapterError(
                f"{where}{name}: {_shown(key)} is a regular expression, only names are supported"
            )
        if not _is_number(value):
            raise AdapterError(f"{where}{name}: {_shown(value)} of {_shown(key)} is no number")
    return given


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) < 1e30


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_RANK


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."
