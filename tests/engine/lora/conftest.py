"""Adapters of the tiny Llama as PEFT writes them: made by `peft` where it is installed, and by hand
for what it would not write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

SIZES = {  # (inputs, outputs) of the tiny Llama's modules
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (32, 16),
    "self_attn.v_proj": (32, 16),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (32, 48),
    "mlp.up_proj": (32, 48),
    "mlp.down_proj": (48, 32),
}
ALL = tuple(SIZES)


def matrices(
    rank: int, seed: int, modules: Sequence[str] = ALL, scale: float = 0.3
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        for module in modules:
            inputs, outputs = SIZES[module]
            name = f"base_model.model.model.layers.{layer}.{module}"
            for side, shape in {"A": (rank, inputs), "B": (outputs, rank)}.items():
                tensors[f"{name}.lora_{side}.weight"] = scale * torch.randn(
                    shape, generator=generator
                )
    return tensors


def write_adapter(
    folder: Path, rank: int, tensors: Mapping[str, torch.Tensor], **config: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    return folder


MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Write an adapter of random matrices; `config` is added to its adapter_config.json."""

    def make(
        name: str, rank: int, *, seed: int = 0, modules: Sequence[str] = ALL, **config: Any
    ) -> Path:
        tensors = matrices(rank, seed or sum(map(ord, name)), modules)
        return write_adapter(tmp_path / name, rank, tensors, **config)

    return make
