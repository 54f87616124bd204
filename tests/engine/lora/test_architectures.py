"""Layers that a checkpoint fuses, and those that take no adapter."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeepseekV2Config, Phi3Config, Phi3ForCausalLM

from formgate.engine.adapter import AdapterError, AdapterSource
from formgate.engine.lora.targets import Targets
from formgate.engine.models.registry import build_model

SHAPE = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
FUSED = {"self_attn.qkv_proj": (32, 64), "mlp.gate_up_proj": (32, 96), "mlp.down_proj": (48, 32)}


def test_layers_that_the_checkpoint_fuses(make_engine, make_adapter, prompt_of, tmp_path) -> None:
    """One pair of matrices covers all stacked outputs."""
    torch.manual_seed(5)
    model = Phi3ForCausalLM(Phi3Config(**SHAPE, initializer_range=0.3)).eval()
    model.save_pretrained(tmp_path / "phi3")
    folder = make_adapter("x", 5, modules=tuple(FUSED), sizes=FUSED, lora_alpha=10)
    driver = make_engine(
        model_dir=tmp_path / "phi3", enable_lora=True, adapters=(AdapterSource("x", folder),)
    )
    prompt = prompt_of(9)
    found = driver.generate(prompt, lora_name="x").token_ids
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, a in tensors.items():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            model.get_submodule(module).weight.data += 2 * b @ a
    tokens = list(prompt)
    with torch.no_grad():
        for _ in found:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert found == tokens[len(prompt) :]
    assert found != driver.generate(prompt).token_ids


def test_deepseek() -> None:
    """The compressed queries and entries take adapters; what attention multiplies with does not."""
    config = DeepseekV2Config(
        **SHAPE,
        architectures=["DeepseekV2ForCausalLM"],
        q_lora_rank=40,
        kv_lora_rank=24,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        first_k_dense_replace=2,
    )
    targets = Targets(build_model(config, torch.float32, torch.device("cpu")))
    layer = "model.layers.1.self_attn"
    for module in ("q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "o_proj"):
        assert len(targets.find(f"{layer}.{module}")) == 1
    for module in (f"{layer}.kv_b_proj", "model.layers.x.mlp.up_proj", "lm_head", "", "model"):
        with pytest.raises(AdapterError):
            targets.find(module)
