"""The decoder that all models share. A `DecoderSpec` states the differences between them. Module
names are those of the checkpoints, except for stacked matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from formgate.engine.attention.kv_layout import KVLayout, LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.attention.warm_up import Task
from formgate.engine.layers.embedding import LMHead, VocabEmbedding
from formgate.engine.layers.experts import MixtureOfExperts
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.mlp import GatedMLP
from formgate.engine.layers.norm import LayerNorm, RMSNorm
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.layers.rotary import Rotary
from formgate.engine.layers.storage import Placement
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.model_config import (
    ModelConfig,
    check_layer_lists,
    completed_fields,
    flat_rope,
)
from formgate.engine.models.self_attention import SelfAttention
from formgate.engine.models.spec import DecoderSpec, plain_spec
from formgate.engine.step import BatchShape


class AttentionPart(Protocol):
    """The class of a layer's attention block: its constructor, its KV layout, and the launches that
    compile its kernels.
    """

    def __call__(
        self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement
    ) -> Layer: ...

    def kv_layout(
        self, spec: DecoderSpec, parallel: TensorParallel, block_size: int, dtype: torch.dtype
    ) -> KVLayout: ...

    def warm_up(
        self,
        model: nn.Module,
        spec: DecoderSpec,
        layout: KVLayout,
        shapes: Iterable[BatchShape],
        max_context_len: int,
        device: torch.device,
    ) -> Iterator[Task]: ...


def feed_forward(spec: DecoderSpec, layer: int, placement: Placement) -> Layer:
    """The gated MLP of a layer, or its mixture of experts."""
    experts = spec.experts_of(layer)
    if experts is not None:
        return MixtureOfExperts(spec.hidden_size, experts, spec.activation, placement)
    return GatedMLP(
        spec.hidden_size,
        spec.intermediate_size,
        activation=spec.activation,
        bias=spec.mlp_bias,
        placement=placement,
    )


def rms_norm_part(spec: DecoderSpec, placement: Placement) -> RMSNorm:
    return RMSNorm(spec.hidden_size, spec.norm_eps, placement, offset=spec.norm_offset)


class DecoderLayer(Layer):
    """Takes the previous layer's output and the residual stream separately, so that one kernel adds
    and normalizes them.
    """

    def __init__(
        self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement, parts: LayerParts
    ) -> None:
        super().__init__()
        self.input_layernorm = parts.norm(spec, placement)
        self.self_attn = parts.attention(spec, layer, rotary, placement.inside("self_attn"))
        self.post_attention_layernorm = parts.norm(spec, placement)
        self.mlp = parts.mlp(spec, layer, placement.inside("mlp"))
        self.attention_output_norm: RMSNorm | LayerNorm | None = None
        self.mlp_output_norm: RMSNorm | LayerNorm | None = None
        if spec.output_norms:
            self.attention_output_norm = parts.norm(spec, placement)
            self.mlp_output_norm = parts.norm(spec, placement)
        self.residual_scale = spec.residual_scale

    def forward(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,  # None in the first layer: `hidden` is the residual
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,  # `batch.read` in the last layer
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            residual = hidden
            hidden = self.input_layernorm(hidden)
        else:
            hidden, residual = self.input_layernorm.add(hidden, residual)
        hidden = self.self_attn(hidden, kv_cache, batch, read)
        if read is not None:
            residual = residual.index_select(0, batch.logits_indices)
        if self.attention_output_norm is not None:
            hidden = self.attention_output_norm(hidden)
        if self.residual_scale != 1.0:
            hidden = hidden * self.residual_scale
        hidden, residual = self.post_attention_layernorm.add(hidden, residual)
        hidden = self.mlp(hidden)
        if self.mlp_output_norm is not None:
            hidden = self.mlp_output_norm(hidden)
        if self.residual_scale != 1.0:
            hidden = hidden * self.residual_scale
        return hidden, residual


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The parts of a model's layers. A model's file names the parts that differ."""

    attention: AttentionPart = SelfAttention
    mlp: Callable[[DecoderSpec, int, Placement], Layer] = feed_forward
    norm: Callable[[DecoderSpec, Placement], RMSNorm | LayerNorm] = rms_norm_part
    layer: Callable[[DecoderSpec, int, Rotary, Placement, LayerParts], Layer] = DecoderLayer


class Decoder(Layer):
    """Token ids [n] -> final hidden states [n, hidden_size], or those of `batch.read` only."""

    def __init__(self, spec: DecoderSpec, placement: Placement, parts: LayerParts) -> None:
        super().__init__()
        self.embed_tokens = VocabEmbedding(spec.vocab_size, spec.hidden_size, placement)
        # Rounded to the model's dtype, as in training.
        self.embedding_scale = torch.tensor(spec.embedding_scale, dtype=placement.dtype).item()
        ropes = [spec.rope_of(layer) for layer in range(spec.num_layers)]
        rotaries = {rope: Rotary(rope, placement.device) for rope in set(ropes)}
        layers = placement.inside("layers")
        self.layers = nn.ModuleList(
            parts.layer(spec, layer, rotaries[rope], layers.inside(layer), parts)
            for layer, rope in enumerate(ropes)
        )
        self.norm = parts.norm(spec, placement)

    def forward(self, batch: ForwardBatch, kv_caches: list[LayerCache]) -> torch.Tensor:
        hidden: torch.Tensor = self.embed_tokens(batch.input_ids)
        if self.embedding_scale != 1.0:
            hidden = hidden * self.embedding_scale
        residual: torch.Tensor | None = None
        last = len(kv_caches) - 1
        for i, (layer, kv_cache) in enumerate(zip(self.layers, kv_caches, strict=True)):
            # Of the last layer's outputs only those at `logits_indices` are read.
            read = batch.read if i == last else None
            hidden, residual = layer(hidden, residual, kv_cache, batch, read)
        assert residual is not None
        return self.norm.add(hidden, residual)[0]


class CausalLM(Layer):
    """A decoder with its language-model head. A model's file overrides `read_spec`; `defaults` and
    `derive_fields` if its configs leave out other values than most; `parts` if its layers have
    other parts; `renamed` if its checkpoints use other names.
    """

    # What transformers' config class of this model takes for a field that config.json leaves out,
    # where that differs from `COMMON_DEFAULTS`.
    defaults: ClassVar[Mapping[str, Any]] = {}

    parts: ClassVar[LayerParts] = LayerParts()

    # Module name in a checkpoint -> (module name here, its shard there; None: the whole).
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        "q_proj": ("qkv_proj", "q"),
        "k_proj": ("qkv_proj", "k"),
        "v_proj": ("qkv_proj", "v"),
        "gate_proj": ("gate_up_proj", "gate"),
        "up_proj": ("gate_up_proj", "up"),
    }

    # Names of other parts of a path: in a checkpoint -> here.
    renamed_parts: ClassVar[Mapping[str, str]] = {}

    # Whether checkpoints have more layers than the config says: those of a module that predicts
    # several tokens at once, which formgate does not use.
    skips_extra_layers: ClassVar[bool] = False

    def __init__(self, spec: DecoderSpec, placement: Placement) -> None:
        super().__init__()
        self.spec = spec
        self._placement = placement
        self.model = Decoder(spec, placement.inside("model"), self.parts)
        self.lm_head = LMHead(
            spec.vocab_size,
            spec.hidden_size,
            placement if spec.tied_embeddings else placement.inside("lm_head"),
            tied=self.model.embed_tokens if spec.tied_embeddings else None,
            scale=spec.logits_scale,
            softcap=spec.logits_softcap,
        )

    @classmethod
    def read_config(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """From the object in config.json. Raises ConfigError, which names the wrong field."""
        fields = completed_fields(raw, cls.defaults)
        cls.derive_fields(fields)
        check_layer_lists(fields)
        return ModelConfig(fields)

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        """Fill in the fields that follow from others."""
        fields["rope_parameters"] = flat_rope(fields)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        """Raises UnsupportedModelError if the config asks for an unsupported feature."""
        return plain_spec(config)

    def forward(self, batch: ForwardBatch, kv_caches: list[LayerCache]) -> torch.Tensor:
        """Final hidden states: [num_tokens, hidden_size], or [num_logits, hidden_size] if
        `batch.read` is given. `kv_caches` holds one cache per layer.
        """
        hidden: torch.Tensor = self.model(batch, kv_caches)
        return hidden

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states, and of all weights that are not quantized."""
        return self._placement.dtype

    def kv_layout(self, block_size: int) -> KVLayout:
        """Layout of this rank's KV cache."""
        placement = self._placement
        return self.parts.attention.kv_layout(
            self.spec, placement.parallel, block_size, placement.dtype
        )

    def attention_tasks(
        self, layout: KVLayout, shapes: Iterable[BatchShape], max_context_len: int
    ) -> Iterator[Task]:
        """One launch for each attention kernel of prompts and of decoding in `shapes`."""
        return self.parts.attention.warm_up(
            self, self.spec, layout, shapes, max_context_len, self._placement.device
        )

    def compute_logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden [m, hidden_size] -> float32 [m, vocab_size], written to `out` if given"""
        logits: torch.Tensor = self.lm_head(hidden, out)
        return logits

    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        """(parameter, shard) that a checkpoint tensor fills; None: the tensor is not needed."""
        if checkpoint_name.endswith("rotary_emb.inv_freq"):
            return None  # old checkpoints store it; it follows from the config
        if checkpoint_name == "lm_head.weight" and self.spec.tied_embeddings:
            return None
        *path, module, tensor = ["", *checkpoint_name.split(".")]
        path = [self.renamed_parts.get(part, part) for part in path[1:]]
        in_layer = self.skips_extra_layers and path[:2] == ["model", "layers"]
        if in_layer and int(path[2]) >= self.spec.num_layers:
            return None
        name, shard = self.renamed.get(module, (module, None))
        if path[-2:-1] == ["experts"]:
            # One parameter holds the matrices of all experts.
            expert = path.pop()
            shard = expert if shard is None else f"{expert}.{shard}"
        return ".".join(part for part in (*path, name, tensor) if part), shard

    def checkpoint_name_of(self, parameter: str, shard: str | None) -> str:
        """The inverse of `parameter_of`, for messages."""
        *path, module, tensor = parameter.split(".")
        if path[-1:] == ["experts"]:
            expert, _, output = (shard or "").partition(".")
            path.append(expert)
            shard = output or None
        parts = {here: theirs for theirs, here in self.renamed_parts.items()}
        path = [parts.get(part, part) for part in path]
        names = (theirs for theirs, target in self.renamed.items() if target == (module, shard))
        return ".".join((*path, next(names, module), tensor))
