"""Tiny configs of every architecture, for random checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from transformers import (
    Cohere2Config,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

VOCAB = 131  # odd on purpose: two ranks must pad it
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama_tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama_no_gqa": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}),
    "llama_one_kv_head": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}),
    "llama_head_dim_biases": lambda: LlamaConfig(
        **SHAPE, head_dim=24, attention_bias=True, mlp_bias=True
    ),
    "llama_llama3_rope": lambda: LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE),
    "llama_linear_rope": lambda: LlamaConfig(**SHAPE, rope_parameters=LINEAR_ROPE),
    "llama_yarn_rope": lambda: LlamaConfig(**SHAPE, rope_parameters=YARN_ROPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "mistral_window": lambda: MistralConfig(**SHAPE, sliding_window=6, head_dim=32),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2_window_above_layer_1": lambda: Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=32),
    "phi3": lambda: Phi3Config(**SHAPE),
    "phi3_partial_rotary": lambda: Phi3Config(**SHAPE, partial_rotary_factor=0.5),
    "gemma2": lambda: Gemma2Config(
        **SHAPE,
        head_dim=32,
        sliding_window=6,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        head_dim=32,
        sliding_window=6,
        query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    ),
    "smollm3": lambda: SmolLM3Config(**SHAPE, no_rope_layers=[1, 0, 1]),
    "smollm3_window": lambda: SmolLM3Config(
        **SHAPE, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=6
    ),
    "granite": lambda: GraniteConfig(
        **SHAPE,
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=2.5,
    ),
    "olmo2": lambda: Olmo2Config(**SHAPE),
    "olmo2_one_kv_head": lambda: Olmo2Config(**{**SHAPE, "num_key_value_heads": 1}),
    "cohere2": lambda: Cohere2Config(
        **SHAPE,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "deepseek_v2_dense": lambda: DeepseekV2Config(
        **{**SHAPE, **LATENT}, q_lora_rank=None, first_k_dense_replace=3
    ),
    "deepseek_v3_dense": lambda: DeepseekV3Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=40,
        first_k_dense_replace=3,
        rope_parameters={**YARN_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=5, sliding_window=None),
    "mixtral_window": lambda: MixtralConfig(**SHAPE, num_local_experts=4, sliding_window=6),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SHAPE,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=56,
        decoder_sparse_step=2,
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
    "deepseek_v2": lambda: DeepseekV2Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=None,
        first_k_dense_replace=1,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
    ),
    "deepseek_v2_groups": lambda: DeepseekV2Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=40,
        first_k_dense_replace=1,
        n_routed_experts=12,
        n_shared_experts=1,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=4.0,
    ),
    "deepseek_v3": lambda: DeepseekV3Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=40,
        first_k_dense_replace=1,
        n_routed_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=40,
        n_group=4,
        topk_group=2,
    ),
    "glm4_moe": lambda: Glm4MoeConfig(
        **SHAPE,
        head_dim=32,
        use_qk_norm=True,
        attention_bias=True,
        n_routed_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        routed_scaling_factor=2.5,
    ),
    "gpt_oss": lambda: GptOssConfig(
        **SHAPE,
        head_dim=32,
        num_local_experts=5,
        num_experts_per_tok=3,
        sliding_window=6,
        swiglu_limit=1.5,  # so that it cuts
        rope_parameters={**YARN_ROPE, "rope_theta": 150000.0, "truncate": False},
    ),
}
