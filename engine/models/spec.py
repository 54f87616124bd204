"""The fields of a checkpoint's config that a decoder uses, under formgate's names. Every model of
the registry is the same decoder with another spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from formgate.engine.attention.latent import LatentShape
from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.layers.mlp import ACTIVATIONS
from formgate.engine.layers.rotary import ROPE_KINDS, RopeSpec
from formgate.engine.models.model_config import ModelConfig

QueryKeyNorm = Literal["none", "head", "all_heads"]


class UnsupportedModelError(ValueError):
    """The config asks for an unsupported feature. The message is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """Defaults are those of a plain decoder; a model's file sets the fields that differ."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int  # the longest sequence: prompt and answer together
    rope: RopeSpec
    norm_eps: float
    tied_embeddings: bool
    activation: str = "silu"
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    query_key_norm: QueryKeyNorm = "none"  # before the rotation
    output_norms: bool = False  # also after attention and after the feed-forward block
    norm_offset: float = 0.0  # the checkpoint stores the norms' weights minus this
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of each block's output
    logits_scale: float = 1.0
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_softcap: float = 0.0
    logits_softcap: float = 0.0
    attention_sinks: bool = False  # each head has a logit that no key has
    sliding_windows: tuple[int, ...] = ()  # per layer, 0 is full attention; empty: all full
    layer_ropes: tuple[RopeSpec, ...] = ()  # per layer; empty: all have `rope`
    latent: LatentShape | None = None  # of latent attention; None: keys and values by heads
    experts: ExpertsSpec | None = None  # of the layers that are mixtures of experts
    expert_layers: tuple[bool, ...] = ()  # per layer; empty: all, if there are experts

    def experts_of(self, layer: int) -> ExpertsSpec | None:
        """None: the layer has a dense MLP."""
        chosen = not self.expert_layers or self.expert_layers[layer]
        return self.experts if chosen else None

    def window_of(self, layer: int) -> int:
        return self.sliding_windows[layer] if self.sliding_windows else 0

    def rope_of(self, layer: int) -> RopeSpec:
        return self.layer_ropes[layer] if self.layer_ropes else self.rope


def plain_spec(config: ModelConfig, *, rope: RopeSpec | None = None) -> DecoderSpec:
    """A spec from the fields that have the same name in all Hugging Face decoder configs. `rope`:
    of a config that has several. Raises UnsupportedModelError for an unknown activation or rope
    scaling.
    """
    heads: int = config.num_attention_heads
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = rope or rope_spec(config, head_dim)
    activation = getattr(config, "hidden_act", None) or config.hidden_activation
    if activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"activation {activation!r} is not supported (supported: {', '.join(ACTIVATIONS)})"
        )
    return DecoderSpec(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=config.num_key_value_heads or heads,
        head_dim=head_dim,
        max_position=rope.max_position,
        rope=rope,
        norm_eps=getattr(config, "rms_norm_eps", None) or config.layer_norm_eps,
        tied_embeddings=config.tie_word_embeddings,
        activation=activation,
    )


def rope_spec(
    config: ModelConfig, head_dim: int, parameters: Mapping[str, Any] | None = None
) -> RopeSpec:
    """`parameters`: those of one kind of layer, where the config has several."""
    given = dict(parameters or config.rope_parameters or {})
    kind = given.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise UnsupportedModelError(
            f"rope scaling {kind!r} is not supported (supported: {', '.join(ROPE_KINDS)})"
        )
    max_position: int = config.max_position_embeddings
    original = given.get("original_max_position_embeddings") or max_position
    factor = given.get("factor")
    if factor is None:
        factor = max_position / original
    if kind == "yarn":
        # Qwen configs state the length before scaling, others the length after it.
        max_position = max(max_position, int(original * factor))
    # A key that is absent or null keeps the spec's default.
    names = (
        ("low_freq_factor", "high_freq_factor")
        if kind == "llama3"
        else ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate")
    )
    details = {name: given[name] for name in names if given.get(name) is not None}
    return RopeSpec(
        kind=kind,
        theta=given["rope_theta"],
        rotary_dim=int(head_dim * given.get("partial_rotary_factor", 1.0)),
        max_position=max_position,
        factor=factor,
        original_max_position=original,
        **details,
    )


def windows_by_layer_type(config: ModelConfig) -> tuple[int, ...]:
    """Sliding window of each layer, for configs with `layer_types`."""
    window: int = config.sliding_window or 0
    return tuple(window if kind == "sliding_attention" else 0 for kind in config.layer_types)
