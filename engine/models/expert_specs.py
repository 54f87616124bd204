"""The fields of a config that describe its experts, where several architectures share them."""

from __future__ import annotations

from transformers import PreTrainedConfig

from formgate.engine.layers.experts import ExpertsSpec
from formgate.kernels.experts.choose_experts import Choice


def after_dense_layers(config: PreTrainedConfig) -> tuple[bool, ...]:
    """Whether each layer has experts, in configs with `first_k_dense_replace`."""
    dense: int = config.first_k_dense_replace or 0
    return tuple(layer >= dense for layer in range(config.num_hidden_layers))


def balanced_experts(config: PreTrainedConfig) -> ExpertsSpec:
    """Experts whose load a trained bias balances (DeepSeek-V3, arXiv:2412.19437, section 2.1.2)."""
    choice = Choice(
        top_k=config.num_experts_per_tok,
        sigmoid=True,
        renormalize=config.norm_topk_prob,
        scale=config.routed_scaling_factor,
        groups=config.n_group,
        top_groups=config.topk_group,
        group_sum=True,
    )
    return ExpertsSpec(
        num_experts=config.n_routed_experts,
        intermediate_size=config.moe_intermediate_size,
        choice=choice,
        float32_router=True,
        corrected=True,
        shared_size=config.moe_intermediate_size * (config.n_shared_experts or 0),
    )
