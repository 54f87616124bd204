"""A model in a GGUF file is the model that was written: its spec and every tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.loading.gguf_config import gguf_config
from formgate.engine.loading.gguf_file import TYPES, GGUFError, read_gguf_header
from formgate.engine.loading.gguf_weights import GGUFWeights
from formgate.engine.loading.weights import WeightsError, load_model_config, load_weights
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.registry import architecture_of, build_model
from tests.engine.loading.gguf_writing import (
    Choose,
    everything_f32,
    gguf_tensors,
    metadata_of,
    write_gguf,
)

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 67,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": [5],
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
GEMMA = {"head_dim": 32, "sliding_window": 9, "query_pre_attn_scalar": 32}

# GGUF's architecture, transformers' config, and the metadata that only some models have.
CASES: dict[str, tuple[str, Callable[[], PreTrainedConfig], dict[str, Any]]] = {
    "llama": ("llama", lambda: LlamaConfig(**SHAPE), {}),
    "llama_tied": ("llama", lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True), {}),
    "llama_head_dim": ("llama", lambda: LlamaConfig(**SHAPE, head_dim=24), {}),
    "llama_biases": ("llama", lambda: LlamaConfig(**SHAPE, attention_bias=True), {}),
    "llama3_rope": (
        "llama",
        lambda: LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
        {"llama.rope.freq_base": 500000.0},
    ),
    "llama_linear_rope": (
        "llama",
        lambda: LlamaConfig(**SHAPE, rope_parameters=LINEAR),
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8.0},
    ),
    "mistral": (
        "llama",
        lambda: MistralConfig(**SHAPE, sliding_window=9),
        {"llama.attention.sliding_window": 9},
    ),
    "qwen2": ("qwen2", lambda: Qwen2Config(**SHAPE), {"qwen2.rope.freq_base": 10000.0}),
    "qwen2_yarn": (
        "qwen2",
        lambda: Qwen2Config(**SHAPE, rope_parameters=YARN),
        {
            "qwen2.rope.scaling.type": "yarn",
            "qwen2.rope.scaling.factor": 4.0,
            "qwen2.rope.scaling.original_context_length": 32,
        },
    ),
    "qwen3": ("qwen3", lambda: Qwen3Config(**SHAPE, head_dim=32), {}),
    "gemma2": (
        "gemma2",
        lambda: Gemma2Config(**SHAPE, **GEMMA, final_logit_softcapping=7.0),
        {
            "gemma2.attention.sliding_window": 9,
            "gemma2.attn_logit_softcapping": 50.0,
            "gemma2.final_logit_softcapping": 7.0,
        },
    ),
    "gemma3": (
        "gemma3",
        lambda: Gemma3TextConfig(
            **{**SHAPE, "num_hidden_layers": 6},
            **GEMMA,
            rope_parameters={
                "full_attention": {**LINEAR, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        {
            "gemma3.attention.sliding_window": 9,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
        },
    ),
}


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CASES[name][1]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.config.architectures = [type(model).__name__]
    return model


def rope_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """As llama.cpp's converter computes them, frequency by frequency."""
    factors = []
    for i in range(0, head_dim, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        turns = rope["original_max_position_embeddings"] / wave
        if turns > rope["high_freq_factor"]:
            factors.append(1.0)
        elif turns < rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (turns - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def save(
    folder: Path,
    name: str,
    kind_of: Choose = everything_f32,
    drop: tuple[str, ...] = (),
    tensors: dict[str, np.ndarray] | None = None,
    **metadata: Any,
) -> PreTrainedModel:
    """The model, written to `folder` with the config.json that the file stands for."""
    model, architecture = make_model(name), CASES[name][0]
    stored = gguf_tensors(model, architecture) | (tensors or {})
    if name == "llama3_rope":
        stored["rope_freqs.weight"] = rope_factors(LLAMA3, 16)
    entries = metadata_of(model, architecture) | CASES[name][2]
    entries |= {"tokenizer.ggml.eos_token_id": 5, **metadata}
    stored = {key: values for key, values in stored.items() if key not in drop}
    write_gguf(folder / "model.gguf", architecture, entries, stored, kind_of)
    config = gguf_config(read_gguf_header(folder / "model.gguf"))
    (folder / "config.json").write_text(json.dumps(config))
    return model


def load(folder: Path, rank: TensorParallel | None = None) -> CausalLM:
    model = build_model(load_model_config(folder), torch.float32, CPU, parallel=rank)
    load_weights(model, folder, progress=lambda stage, done, total: None)
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_the_model_that_was_written(name: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, name)
    config = load_model_config(tmp_path)
    assert architecture_of(config).read_spec(config) == architecture_of(config).read_spec(
        theirs.config
    )
    assert config.eos_token_id == [5]
    loaded = load(tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    expected = load(tmp_path / "saved").state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for key, values in loaded.state_dict().items():
        # Gemma's norms lost a bit when the converter added 1.
        torch.testing.assert_close(values, expected[key], rtol=0, atol=2e-7, msg=key)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_its_slices(rank: int, tmp_path: Path) -> None:
    theirs = save(tmp_path, "llama")
    theirs.save_pretrained(tmp_path / "saved")
    parallel = TensorParallel(rank=rank, size=2)
    loaded, expected = load(tmp_path, parallel), load(tmp_path / "saved", parallel)
    for key, values in loaded.state_dict().items():
        assert torch.equal(values, expected.state_dict()[key]), key


@pytest.mark.parametrize("kind", [Kind[kind.name] for kind in TYPES.values()])
def test_every_type_is_dequantized(kind: Kind, tmp_path: Path) -> None:
    """Rows of several parts, and a slice that begins between parts."""
    rng = np.random.default_rng(7)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = 5000, 512
    stored = rng.integers(0, 256, (rows, columns // block * block_bytes), dtype=np.uint8)
    if kind in (Kind.F32, Kind.F16, Kind.BF16):
        stored &= 0x3F  # finite
    blocks = stored.reshape(-1, block_bytes)
    for place in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind.name, (0, 2)):
        blocks[:, place + 1 : place + 2] &= 0x3F  # the high byte of a float16 scale: finite
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = torch.from_numpy(gguf.dequantize(stored, kind).reshape(rows, columns))
    assert expected.isfinite().all()
    name = "model.layers.0.mlp.up_proj.weight"
    for dtype in (torch.float32, torch.bfloat16):
        with GGUFWeights(path, dtype) as weights:
            assert weights.keys() == [name]
            assert torch.equal(weights.get_tensor(name), expected.to(dtype))
            part = weights.get_slice(name)
            assert part.get_shape() == [rows, columns]
            assert torch.equal(part[1777:4001, 64:96], expected[1777:4001, 64:96].to(dtype))


def test_quantized_weights_compute_as_their_dequantized_twin(tmp_path: Path) -> None:
    def kind_of(name: str, values: np.ndarray) -> Kind:
        return Kind.Q8_0 if values.ndim > 1 else Kind.F32

    (tmp_path / "quantized").mkdir()
    theirs = save(tmp_path / "quantized", "llama", kind_of)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                stored = gguf.quantize(parameter.numpy(), Kind.Q8_0)
                parameter.copy_(torch.from_numpy(gguf.dequantize(stored, Kind.Q8_0)))
    theirs.save_pretrained(tmp_path / "twin")
    loaded, expected = load(tmp_path / "quantized").state_dict(), load(tmp_path / "twin")
    for key, values in expected.state_dict().items():
        assert torch.equal(loaded[key], values), key


def refusal(folder: Path, name: str, **changes: Any) -> str:
    with pytest.raises(GGUFError) as error:
        save(folder, name, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_not_computed_is_refused(tmp_path: Path) -> None:
    def refused(**metadata: Any) -> str:
        return refusal(tmp_path, "llama", **metadata)

    assert "unsupported architecture mamba (supported: llama, qwen2" in refused(
        **{"general.architecture": "mamba"}
    )
    assert "scaling longrope" in refused(**{"llama.rope.scaling.type": "longrope"})
    assert "turns 8 of 16 dimensions" in refused(**{"llama.rope.dimension_count": 8})
    assert "one part of several" in refused(**{"split.count": 3})
    assert "different lengths" in refused(**{"llama.attention.value_length": 8})
    assert "layers that differ" in refused(**{"llama.attention.head_count_kv": [2, 1, 2]})
    assert "holds a str" in refused(**{"llama.embedding_length": "wide"})
    for key in ("attention.head_count", "embedding_length", "block_count", "context_length"):
        for wrong in (3_000_000_000, [math.nan], [2.0]):
            message = refused(**{f"llama.{key}": wrong})
            assert f"llama.{key}" in message
    zeros = np.zeros(8, np.float32)
    assert "unknown rope scaling" in refused(tensors={"rope_freqs.weight": zeros})
    factors = np.linspace(1, 9, 8, dtype=np.float32)
    assert "unknown rope scaling" in refused(tensors={"rope_freqs.weight": factors})
    assert "no matrix token_embd.weight" in refused(drop=("token_embd.weight",))


def test_one_number_for_every_layer_may_be_a_list(tmp_path: Path) -> None:
    save(tmp_path, "llama", **{"llama.attention.head_count_kv": [2, 2, 2]})
    assert load_model_config(tmp_path).num_key_value_heads == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tensors": {"blk.1.attn_q.weight": np.ones((32, 64), np.float32)}},
            r"q_proj\.weight has shape \[32, 64\], the config asks for \[64, 64\]",
        ),
        (
            {"tensors": {"blk.1.attn_q.weight": np.ones((60, 64), np.float32)}},
            r"q_proj\.weight has shape \[60, 64\]",
        ),
        ({"drop": ("blk.2.ffn_up.weight",)}, r"lacks model\.layers\.2\.mlp\.up_proj\.weight"),
        (
            {"tensors": {"blk.0.ffn_gate_inp.weight": np.ones((4, 64), np.float32)}},
            r"unknown to this model: blk\.0\.ffn_gate_inp\.weight",
        ),
        ({"llama.block_count": 2}, r"unknown to this model: model\.layers\.2"),
        ({"llama.embedding_length": 0}, "hidden_size is 0"),
        ({"llama.attention.head_count": 0}, "num_attention_heads is 0"),
        ({"llama.block_count": 1 << 31}, "num_hidden_layers is 2147483648"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save(tmp_path, "llama", **changes)
    with pytest.raises(WeightsError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_after_the_header_was_read(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[:-5000])
    with pytest.raises(WeightsError, match=r"model\.gguf is cut or damaged"):
        load(tmp_path)
