"""The config.json that a GGUF file's metadata stands for. What a model would need that the file
does not say, or that no model here computes, is refused.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from formgate.engine.loading.gguf_file import GGUFError, GGUFHeader

# GGUF's name -> the name in a config's `architectures`.
GGUF_ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
_MODEL_TYPES = {"gemma3": "gemma3_text"}
ROPE_FACTORS = "rope_freqs.weight"
# Of Llama 3.1, 3.2 and 3.3, the models whose files have such factors.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# The models whose attention is scaled by hidden_size / heads instead of head_dim, by their layers.
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}  # both 27B
_MOST = 1 << 31  # of any size
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


def gguf_config(header: GGUFHeader) -> dict[str, Any]:
    """The object of a config.json. Raises GGUFError for an architecture or a feature that is not
    supported.
    """
    name = header.require("general.architecture", str)
    if name not in GGUF_ARCHITECTURES:
        raise _error(
            header,
            f"has the unsupported architecture {name} (supported: {', '.join(GGUF_ARCHITECTURES)})",
        )
    if header.get("split.count", int, 1) > 1:
        raise _error(header, "is one part of several: join them with llama-gguf-split --merge")
    fields = _sizes(header, name)
    fields |= _rope(header, name, fields)
    if name.startswith("gemma"):
        fields |= _gemma(header, name, fields)
    elif header.get("llama.attention.sliding_window", int, 0):
        fields["architectures"] = ["MistralForCausalLM"]
        fields["sliding_window"] = header.get("llama.attention.sliding_window", int)
    return fields


def _sizes(header: GGUFHeader, name: str) -> dict[str, Any]:
    heads = _of_every_layer(header, f"{name}.attention.head_count")
    hidden = _of_every_layer(header, f"{name}.embedding_length")
    embeddings = header.tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise _error(header, "has no matrix token_embd.weight")
    fields: dict[str, Any] = {
        "architectures": [GGUF_ARCHITECTURES[name]],
        "model_type": _MODEL_TYPES.get(name, name),
        "vocab_size": embeddings.shape[0],
        "hidden_size": hidden,
        "intermediate_size": _of_every_layer(header, f"{name}.feed_forward_length"),
        "num_hidden_layers": _of_every_layer(header, f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _of_every_layer(header, f"{name}.attention.head_count_kv", heads),
        "head_dim": header.get(f"{name}.attention.key_length", int, hidden // max(heads, 1)),
        "max_position_embeddings": _of_every_layer(header, f"{name}.context_length"),
        "rms_norm_eps": header.require(f"{name}.attention.layer_norm_rms_epsilon", float),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "eos_token_id": end_tokens(header),
        "dtype": "bfloat16" if name.startswith("gemma") else _dtype(header),
    }
    value_length = header.get(f"{name}.attention.value_length", int, fields["head_dim"])
    if value_length != fields["head_dim"]:
        raise _error(header, "has keys and values of different lengths")
    return fields


def end_tokens(header: GGUFHeader) -> list[int]:
    """Ids that end an answer."""
    found = [header.get(f"tokenizer.ggml.{name}", int) for name in _END_TOKENS]
    return list(dict.fromkeys(token for token in found if token is not None))


def _rope(header: GGUFHeader, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    theta = header.get(f"{name}.rope.freq_base", float)
    if theta is not None:
        found["rope_theta"] = theta
    turned = header.get(f"{name}.rope.dimension_count", int, fields["head_dim"])
    if turned != fields["head_dim"]:
        raise _error(header, f"turns {turned} of {fields['head_dim']} dimensions of each head")
    kind = header.get(f"{name}.rope.scaling.type", str, "none")
    factor = header.get(f"{name}.rope.scaling.factor", float, 1.0)
    if ROPE_FACTORS in header.tensors:
        found["rope_scaling"] = _llama3_scaling(header, found.get("rope_theta", 10_000.0))
    elif kind == "yarn":
        original = header.require(f"{name}.rope.scaling.original_context_length", int)
        found["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    elif kind == "linear":
        found["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind != "none":
        raise _error(header, f"has the unsupported rope scaling {kind}")
    return found


def _llama3_scaling(header: GGUFHeader, theta: float) -> dict[str, Any]:
    """Such a file holds the factors of all frequencies, not the rule that they follow. Raises
    GGUFError if they are not those of Llama 3's rule.
    """
    stored = header.tensors[ROPE_FACTORS]
    if stored.type.name != "F32":
        raise _error(header, f"stores {ROPE_FACTORS} as {stored.type.name}, not F32")
    with header.path.open("rb") as file:
        file.seek(stored.start)
        factors = np.frombuffer(file.read(stored.num_bytes), dtype="<f4").astype(np.float64)
    largest = float(factors.max())
    exponents = np.arange(len(factors)) / len(factors)
    turns = _LLAMA3["original_max_position_embeddings"] / (2 * math.pi * theta**exponents)
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise _error(header, f"has {ROPE_FACTORS} of an unknown rope scaling")
    expected = 1.0 / ((1 - blend) / largest + blend)
    if not np.allclose(factors, expected, rtol=1e-3):
        raise _error(header, f"has {ROPE_FACTORS} of an unknown rope scaling")
    return {"rope_type": "llama3", "factor": largest, **_LLAMA3}


def _gemma(header: GGUFHeader, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    by_width = fields["num_hidden_layers"] == _SCALED_BY_WIDTH[name]
    width = fields["hidden_size"] // max(fields["num_attention_heads"], 1)
    found: dict[str, Any] = {
        "sliding_window": header.require(f"{name}.attention.sliding_window", int),
        "query_pre_attn_scalar": width if by_width else fields["head_dim"],
    }
    for theirs, ours in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("rope.freq_base_swa", "rope_local_base_freq"),
    ):
        if (value := header.get(f"{name}.{theirs}", float)) is not None:
            found[ours] = value
    return found


def _of_every_layer(header: GGUFHeader, key: str, default: int | None = None) -> int:
    """A number that some files state once and others for each layer."""
    value = header.get(key, (int, array), default)
    if value is None:
        raise _error(header, f"has no {key}")
    if isinstance(value, int):
        return _size(header, key, value)
    if len(set(value)) != 1:
        raise _error(header, f"has layers that differ in {key}")
    return _size(header, key, value[0])


def _size(header: GGUFHeader, key: str, value: int | float) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MOST:
        raise _error(header, f"has {key} {value}, which is no size")
    return value


def _dtype(header: GGUFHeader) -> str:
    """The dtype of most weights, if they are not quantized. Else bfloat16, which no model
    overflows; float16 Gemma does.
    """
    sizes = {"F16": 0, "BF16": 0, "F32": 0}
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.num_bytes
    most = max(sizes, key=lambda name: sizes[name])
    return {"F16": "float16", "F32": "float32"}.get(most, "bfloat16")


def _error(header: GGUFHeader, reason: str) -> GGUFError:
    return GGUFError(f"{header.path.name} {reason}")
