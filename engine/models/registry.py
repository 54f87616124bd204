"""The supported architectures, and the construction of a model from its config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.layers.quantized.config import Quantization
from formgate.engine.layers.storage import DenseMethod, LinearMethod, Placement
from formgate.engine.models.architectures.cohere2 import Cohere2ForCausalLM
from formgate.engine.models.architectures.deepseek import (
    DeepseekV2ForCausalLM,
    DeepseekV3ForCausalLM,
)
from formgate.engine.models.architectures.gemma2 import Gemma2ForCausalLM
from formgate.engine.models.architectures.gemma3 import (
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
)
from formgate.engine.models.architectures.glm4_moe import Glm4MoeForCausalLM
from formgate.engine.models.architectures.gpt_oss import GptOssForCausalLM
from formgate.engine.models.architectures.granite import GraniteForCausalLM
from formgate.engine.models.architectures.llama import LlamaForCausalLM
from formgate.engine.models.architectures.mistral import MistralForCausalLM
from formgate.engine.models.architectures.mixtral import MixtralForCausalLM
from formgate.engine.models.architectures.olmo2 import Olmo2ForCausalLM
from formgate.engine.models.architectures.phi3 import Phi3ForCausalLM
from formgate.engine.models.architectures.qwen2 import Qwen2ForCausalLM
from formgate.engine.models.architectures.qwen3 import Qwen3ForCausalLM
from formgate.engine.models.architectures.qwen_moe import Qwen2MoeForCausalLM, Qwen3MoeForCausalLM
from formgate.engine.models.architectures.smollm3 import SmolLM3ForCausalLM
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import UnsupportedModelError

# By the name in a config's `architectures`.
ARCHITECTURES: dict[str, type[CausalLM]] = {
    model.__name__: model
    for model in (
        LlamaForCausalLM,
        MistralForCausalLM,
        Qwen2ForCausalLM,
        Qwen3ForCausalLM,
        Phi3ForCausalLM,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3ForConditionalGeneration,
        SmolLM3ForCausalLM,
        GraniteForCausalLM,
        Olmo2ForCausalLM,
        Cohere2ForCausalLM,
        DeepseekV2ForCausalLM,
        DeepseekV3ForCausalLM,
        MixtralForCausalLM,
        Qwen2MoeForCausalLM,
        Qwen3MoeForCausalLM,
        Glm4MoeForCausalLM,
        GptOssForCausalLM,
    )
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The properties of a model that the rest of the engine uses: sizes, limits and EOS tokens."""

    num_layers: int
    num_kv_heads: int  # of the whole model, not of one rank
    num_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_position: int
    sliding_window: int  # largest window of any layer; 0: some layer attends to all keys
    eos_token_ids: tuple[int, ...]


def unsupported(architectures: list[str]) -> UnsupportedModelError:
    """The error for a config with these `architectures`."""
    named = ", ".join(architectures) or "the config names none"
    return UnsupportedModelError(
        f"unsupported architecture: {named} (supported: {', '.join(ARCHITECTURES)})"
    )


def architecture_of(config: ModelConfig) -> type[CausalLM]:
    return architecture_named(list(config.architectures or []))


def architecture_named(names: list[str]) -> type[CausalLM]:
    """The first supported one of a config's `architectures`. Raises UnsupportedModelError."""
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise unsupported(names)


def model_spec(config: ModelConfig) -> ModelSpec:
    spec = architecture_of(config).read_spec(config)
    windows = [spec.window_of(layer) for layer in range(spec.num_layers)]
    eos = config.eos_token_id
    return ModelSpec(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        num_heads=spec.num_heads,
        head_dim=spec.head_dim,
        hidden_size=spec.hidden_size,
        vocab_size=spec.vocab_size,
        max_position=spec.max_position,
        sliding_window=max(windows) if all(windows) else 0,
        eos_token_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
    )


def build_model(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    parallel: TensorParallel | None = None,
    linear_method: LinearMethod | None = None,
    quantization: Quantization | None = None,
    expert_parallel: bool = False,
) -> CausalLM:
    """The model with its weights allocated on `device`, unfilled. `linear_method` stores the layers
    that `quantization` does not. Raises UnsupportedModelError or EngineStartError.
    """
    architecture = architecture_of(config)
    method_at: Callable[[str], LinearMethod] | None = None
    if quantization is not None:
        method_at = partial(_method_at, quantization, architecture)
    placement = Placement(
        dtype,
        device,
        parallel or TensorParallel(),
        linear_method or DenseMethod(),
        method_at=method_at,
        expert_parallel=expert_parallel,
    )
    return architecture(architecture.read_spec(config), placement).eval()


def _method_at(quantization: Quantization, architecture: type[CausalLM], path: str) -> LinearMethod:
    """Storage of the layer at `path`, which may stack several modules of the checkpoint."""
    theirs_of = {ours: theirs for theirs, ours in architecture.renamed_parts.items()}
    *parents, module = (theirs_of.get(part, part) for part in path.split("."))
    shards: dict[str | None, list[str]] = {}
    for theirs, (ours, shard) in architecture.renamed.items():
        if ours == module:
            shards.setdefault(shard, []).append(".".join((*parents, theirs)))
    return quantization.method_of(list(shards.values()) or [[".".join((*parents, module))]])
