"""The fields of a config that describe its experts, where several architectures share them."""

from __future__ import annotations

from typing import Any

from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.model_config import ConfigError, ModelConfig
from formgate.kernels.experts.choose_experts import Choice

# Configs have named the number of routed experts in all these ways.
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


def count_experts(fields: dict[str, Any], default: int) -> None:
    """Set `num_experts`, and refuse a choice that it does not allow. Raises ConfigError."""
    count = next((fields[name] for name in COUNTS if fields.get(name) is not None), default)
    fields["num_experts"] = count
    groups, top_groups = fields.get("n_group") or 1, fields.get("topk_group") or 1
    if count % groups:
        raise ConfigError(f"n_group is {groups}, which does not divide {count} experts")
    if top_groups > groups:
        raise ConfigError(f"topk_group is {top_groups}, more than the {groups} groups")
    if fields["num_experts_per_tok"] is None:
        raise ConfigError("num_experts_per_tok is null")
    available = count // groups * top_groups
    if fields["num_experts_per_tok"] > available:
        raise ConfigError(
            f"num_experts_per_tok is {fields['num_experts_per_tok']}, but a token can choose "
            f"among {available} experts"
        )


def expert_count(config: ModelConfig) -> int:
    """The number of routed experts."""
    counts = (getattr(config, name, None) for name in COUNTS)
    count: int = next(count for count in counts if count is not None)
    return count


def after_dense_layers(config: ModelConfig) -> tuple[bool, ...]:
    """Whether each layer has experts, in configs with `first_k_dense_replace`."""
    dense: int = config.first_k_dense_replace
    return tuple(layer >= dense for layer in range(config.num_hidden_layers))


def balanced_experts(config: ModelConfig) -> ExpertsSpec:
    """Experts whose load a trained bias balances (DeepSeek-V3, arXiv:2412.19437, section 2.1.2)."""
    choice = Choice(
        top_k=config.num_experts_per_tok,
        sigmoid=True,
        renormalize=config.norm_topk_prob,
        scale=config.routed_scaling_factor,
        groups=config.n_group or 1,
        top_groups=config.topk_group or 1,
        group_sum=True,
    )
    return ExpertsSpec(
        num_experts=expert_count(config),
        intermediate_size=config.moe_intermediate_size,
        choice=choice,
        float32_router=True,
        corrected=True,
        shared_size=config.moe_intermediate_size * (config.n_shared_experts or 0),
    )
