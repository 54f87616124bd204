"""Writes a Hugging Face model as a GGUF file, as llama.cpp's converter does: names, metadata, the
order of Llama's rows, Gemma's norms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from transformers import PreTrainedModel

Choose = Callable[[str, NDArray[np.float32]], Kind]


def everything_f32(name: str, values: NDArray[np.float32]) -> Kind:
    return Kind.F32


def metadata_of(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    config = model.config
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }
    if getattr(config, "head_dim", None):
        keys["attention.key_length"] = keys["attention.value_length"] = config.head_dim
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def permuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    """The converter's order: the two rows of each turned pair become neighbours."""
    halves = values.view(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape)


def gguf_tensors(model: PreTrainedModel, architecture: str) -> dict[str, NDArray[np.float32]]:
    kind = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    tensors = {}
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        if architecture == "llama" and ".q_proj." in name:
            values = permuted(values, model.config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = permuted(values, model.config.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        tensors[new] = values.float().numpy()
    return tensors


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    kind_of: Choose = everything_f32,
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add_entry(writer, key, value)
    for name, values in tensors.items():
        kind = kind_of(name, values)
        if kind is Kind.F32:
            writer.add_tensor(name, np.ascontiguousarray(values))
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_entry(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
