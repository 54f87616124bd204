"""A checkpoint's config.json as the models read it: checked field by field, and with the values
that transformers' config classes give to fields left out. Importing those classes takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

# Fields that most decoders have, with the value that most of them give. A model's `defaults` states
# the differences; a value of None means that the field may be null.
COMMON_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,  # as many as attention heads
        "head_dim": None,  # hidden_size / num_attention_heads
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 10_000.0,
        "partial_rotary_factor": None,
        "rope_parameters": None,
        "rope_scaling": None,  # the name of `rope_parameters` until 2025
        "sliding_window": None,
        "layer_types": None,
        "eos_token_id": None,
        "dtype": None,
        "torch_dtype": None,  # the name of `dtype` until 2025
    }
)

# The kind of each field that a model reads, as messages name it.
_COUNT, _INDEX, _NUMBER = "a positive integer", "an integer", "a number"
_FLAG, _WORD = "true or false", "a string"
_IDS, _NAMES, _LIST, _OBJECT = "an id or a list of ids", "a list of strings", "a list", "an object"
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
            *("num_attention_heads", "num_key_value_heads", "head_dim"),
            *("max_position_embeddings",),
            *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
            *("no_rope_layer_interval", "sliding_window_pattern"),
            *("num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok"),
            *("moe_intermediate_size", "n_group", "topk_group", "decoder_sparse_step"),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *("sliding_window", "max_window_layers", "first_k_dense_replace"),
            *("n_shared_experts", "shared_expert_intermediate_size"),
        ),
        _INDEX,
    ),
    **dict.fromkeys(
        (
            *("rms_norm_eps", "layer_norm_eps", "rope_theta", "partial_rotary_factor"),
            *("rope_local_base_freq", "embedding_multiplier", "attention_multiplier"),
            *("residual_multiplier", "logits_scaling", "logit_scale", "query_pre_attn_scalar"),
            *("final_logit_softcapping", "attn_logit_softcapping", "routed_scaling_factor"),
            *("swiglu_alpha", "swiglu_limit"),
        ),
        _NUMBER,
    ),
    **dict.fromkeys(
        (
            *("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"),
            *("rope_interleave", "norm_topk_prob", "use_qk_norm", "qkv_bias"),
        ),
        _FLAG,
    ),
    **dict.fromkeys(
        ("hidden_act", "hidden_activation", "dtype", "torch_dtype", "topk_method"), _WORD
    ),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), _OBJECT),
    "eos_token_id": _IDS,
    "layer_types": _NAMES,
    "no_rope_layers": _LIST,
    "mlp_only_layers": _LIST,
}
_NULLABLE = frozenset(
    {name for name, value in COMMON_DEFAULTS.items() if value is None}
    | {"final_logit_softcapping", "attn_logit_softcapping", "q_lora_rank", "no_rope_layers"}
    | {"n_group", "topk_group", "n_shared_experts", "mlp_only_layers", "topk_method"}
    | {"num_experts_per_tok"}
)
_MOST_LAYERS = 10_000  # more are a damaged file; each costs memory before its weights are missed
_MOST = 2**40  # of any other count


class ConfigError(ValueError):
    """A field of the config has no usable value. The message is one line that names the field."""


class ModelConfig:
    """The fields as attributes, under Hugging Face's names. A field that neither the file nor the
    model's defaults set raises AttributeError.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            raise AttributeError(f"the config has no {name}") from None

    def get_text_config(self) -> ModelConfig:
        """The config of the decoder of text, as transformers' configs have it: this one."""
        return self


def text_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model with vision that its decoder of text reads: those of `text_config`, and
    of the whole what concerns all parts.
    """
    text = raw.get("text_config")
    if not isinstance(text, Mapping):
        return dict(raw)
    shared = ("architectures", "eos_token_id", "dtype", "torch_dtype", "quantization_config")
    return {**text, **{name: raw[name] for name in shared if raw.get(name) is not None}}


def completed_fields(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the defaults of the fields that it lacks. Raises ConfigError for a value that is
    not of its field's kind.
    """
    for name, kind in _KINDS.items():
        if name not in raw or (raw[name] is None and name in _NULLABLE):
            continue
        if not _is_of(kind, raw[name]):
            raise ConfigError(f"{name} is {_shown(raw[name])}, not {kind}")
    fields = {**COMMON_DEFAULTS, **defaults, **raw}
    if fields["num_hidden_layers"] > _MOST_LAYERS:
        raise ConfigError(f"num_hidden_layers is {fields['num_hidden_layers']}, which no model has")
    if fields["num_key_value_heads"] is None:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    fields["dtype"] = _dtype(fields)
    _check_heads(fields)
    return fields


def _check_heads(fields: Mapping[str, Any]) -> None:
    heads, groups = fields["num_attention_heads"], fields["num_key_value_heads"]
    if heads % groups:
        raise ConfigError(f"num_key_value_heads is {groups}, which does not divide {heads} heads")
    if fields["head_dim"] is None and fields["hidden_size"] % heads:
        raise ConfigError(
            f"hidden_size is {fields['hidden_size']}, not a multiple of {heads} heads"
        )


def check_layer_lists(fields: Mapping[str, Any]) -> None:
    """Raises ConfigError if a list with an entry for each layer has too few or too many."""
    for name in ("layer_types", "no_rope_layers"):
        listed, layers = fields.get(name), fields["num_hidden_layers"]
        if listed is not None and len(listed) < layers:
            raise ConfigError(f"{name} has {len(listed)} entries for {layers} layers")


def flat_rope(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding's parameters in one object, from all the places where configs have put
    them: `rope_parameters`, `rope_scaling`, and fields of the config itself.
    """
    rope = dict(fields["rope_scaling"] or fields["rope_parameters"] or {})
    if fields["partial_rotary_factor"] is not None:
        rope.setdefault("partial_rotary_factor", fields["partial_rotary_factor"])
    return complete_rope(rope, fields, fields["rope_theta"])


def complete_rope(rope: dict[str, Any], fields: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """`rope` with its kind, base and original length."""
    for name, value in rope.items():
        if isinstance(value, Mapping):
            raise ConfigError(f"rope_parameters has parameters of its own for {name}")
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = theta
    kind = rope.setdefault("rope_type", rope.get("type", "default"))
    for name in ("rope_theta", "factor", "partial_rotary_factor"):
        if rope.get(name) is not None and not _is_of(_NUMBER, rope[name]):
            raise ConfigError(f"{name} is {_shown(rope[name])}, not {_NUMBER}")
    if kind in ("llama3", "yarn", "longrope"):
        longest = fields["max_position_embeddings"]
        rope.setdefault("original_max_position_embeddings", longest)
    return rope


def windows_but_each(interval: int, fields: dict[str, Any]) -> None:
    """Where the config does not list its layers' kinds: every `interval`-th layer attends to all
    keys, the others to a window.
    """
    if fields["layer_types"] is None:
        fields["layer_types"] = [
            "sliding_attention" if layer % interval else "full_attention"
            for layer in range(1, fields["num_hidden_layers"] + 1)
        ]


def window_above(fields: dict[str, Any]) -> None:
    """Qwen's rule: if windows are in use, the layers from `max_window_layers` on have one."""
    if not fields["use_sliding_window"]:
        fields["sliding_window"] = None
    if fields["layer_types"] is None:
        windowed = fields["sliding_window"] is not None
        fields["layer_types"] = [
            "sliding_attention"
            if windowed and layer >= fields["max_window_layers"]
            else "full_attention"
            for layer in range(fields["num_hidden_layers"])
        ]


def _dtype(fields: Mapping[str, Any]) -> torch.dtype | None:
    name = fields["dtype"] or fields["torch_dtype"]
    if name is None or isinstance(name, torch.dtype):
        return name
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype is {_shown(name)}, which torch does not know")
    return dtype


def _is_of(kind: str, value: object) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == _COUNT:
        return whole and 0 < value <= _MOST  # type: ignore[operator]
    if kind == _INDEX:
        return whole and 0 <= value <= _MOST  # type: ignore[operator]
    if kind == _NUMBER:
        return whole or (isinstance(value, float) and math.isfinite(value))
    if kind == _IDS:
        items = value if isinstance(value, list) else [value]
        return all(isinstance(x, int) and not isinstance(x, bool) for x in items)
    if kind == _NAMES:
        return isinstance(value, list) and all(isinstance(x, str) for x in value)
    types = {_FLAG: bool, _WORD: str, _LIST: list, _OBJECT: dict}
    return isinstance(value, types[kind])


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
