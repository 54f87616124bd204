"""The decoder that all models share. A `DecoderSpec` states every difference between them; module
names are the checkpoints' own, but for the matrices that are stacked into one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig

from formgate.engine.attention.heads import PagedAttention
from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.batch import ForwardBatch
from formgate.engine.layers.embedding import LMHead, VocabEmbedding
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.linear import QKVLinear, RowLinear
from formgate.engine.layers.mlp import GatedMLP
from formgate.engine.layers.norm import RMSNorm
from formgate.engine.layers.rotary import Rotary
from formgate.engine.layers.storage import Placement
from formgate.engine.models.spec import DecoderSpec, plain_spec


class SelfAttention(Layer):
    def __init__(self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.qkv_proj = QKVLinear(
            spec.hidden_size,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            bias=spec.qkv_bias,
            placement=placement,
        )
        self.o_proj = RowLinear(
            spec.num_heads * spec.head_dim,
            spec.hidden_size,
            bias=spec.output_bias,
            placement=placement,
        )
        self.num_heads = self.qkv_proj.num_heads
        self.num_kv_heads = self.qkv_proj.num_kv_heads
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if spec.query_key_norm:
            self.q_norm = RMSNorm(spec.head_dim, spec.norm_eps, placement)
            self.k_norm = RMSNorm(spec.head_dim, spec.norm_eps, placement)
        self.attention = PagedAttention(
            rotary,
            scale=spec.attention_scale or spec.head_dim**-0.5,
            sliding_window=spec.window_of(layer),
            softcap=spec.attention_softcap,
        )

    def forward(
        self,
        hidden: torch.Tensor,
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,  # of the tokens that go on from here; None: all
    ) -> torch.Tensor:
        num_tokens = hidden.shape[0]
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv_proj(hidden).view(num_tokens, heads + 2 * kv_heads, self.head_dim)
        query, key, value = qkv.split((heads, kv_heads, kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query.reshape(-1, self.head_dim)).view(query.shape)
            key = self.k_norm(key.reshape(-1, self.head_dim)).view(key.shape)
        metadata = batch.attention
        query = self.attention.store(query, key, value, batch.positions, kv_cache, metadata)
        if read is not None:
            query, metadata = query.index_select(0, batch.logits_indices), read
        attended = self.attention(query, kv_cache, metadata)
        out: torch.Tensor = self.o_proj(attended.reshape(-1, heads * self.head_dim))
        return out


class DecoderLayer(Layer):
    """Takes the last block's output and the residual stream apart: one kernel adds and norms."""

    def __init__(self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(spec.hidden_size, spec.norm_eps, placement, offset=spec.norm_offset)

        self.input_layernorm = norm()
        self.self_attn = SelfAttention(spec, layer, rotary, placement)
        self.post_attention_layernorm = norm()
        self.mlp = GatedMLP(
            spec.hidden_size,
            spec.intermediate_size,
            activation=spec.activation,
            bias=spec.mlp_bias,
            placement=placement,
        )
        self.attention_output_norm = norm() if spec.output_norms else None
        self.mlp_output_norm = norm() if spec.output_norms else None

    def forward(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,  # None before the first layer: hidden is the stream
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,  # in the last layer, `batch.read`
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
        hidden, residual = self.post_attention_layernorm.add(hidden, residual)
        hidden = self.mlp(hidden)
        if self.mlp_output_norm is not None:
            hidden = self.mlp_output_norm(hidden)
        return hidden, residual


class Decoder(Layer):
    """[n] token ids to final hidden states: [n, hidden_size], or those of `batch.read`."""

    def __init__(self, spec: DecoderSpec, placement: Placement) -> None:
        super().__init__()
        self.embed_tokens = VocabEmbedding(spec.vocab_size, spec.hidden_size, placement)
        # Rounded to the model's dtype, as the models that scale were trained.
        self.embedding_scale = torch.tensor(spec.embedding_scale, dtype=placement.dtype).item()
        rotary = Rotary(spec.rope, placement.device)
        self.layers = nn.ModuleList(
            DecoderLayer(spec, layer, rotary, placement) for layer in range(spec.num_layers)
        )
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps, placement, offset=spec.norm_offset)

    def forward(self, batch: ForwardBatch, kv_caches: list[LayerCache]) -> torch.Tensor:
        hidden: torch.Tensor = self.embed_tokens(batch.input_ids)
        if self.embedding_scale != 1.0:
            hidden = hidden * self.embedding_scale
        residual: torch.Tensor | None = None
        last = len(kv_caches) - 1
        for i, (layer, kv_cache) in enumerate(zip(self.layers, kv_caches, strict=True)):
            # Nobody reads what the last layer makes of the other tokens of a prompt.
            read = batch.read if i == last else None
            hidden, residual = layer(hidden, residual, kv_cache, batch, read)
        assert residual is not None
        return self.norm.add(hidden, residual)[0]


class CausalLM(Layer):
    """A decoder with its language-model head. A model's file overrides `read_spec`, and
    `renamed` where its checkpoints name things in another way.
    """

    # Checkpoint's module name -> (ours, which shard of ours it is; None: the whole).
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        "q_proj": ("qkv_proj", "q"),
        "k_proj": ("qkv_proj", "k"),
        "v_proj": ("qkv_proj", "v"),
        "gate_proj": ("gate_up_proj", "gate"),
        "up_proj": ("gate_up_proj", "up"),
    }

    def __init__(self, spec: DecoderSpec, placement: Placement) -> None:
        super().__init__()
        self.spec = spec
        self.model = Decoder(spec, placement)
        self.lm_head = LMHead(
            spec.vocab_size,
            spec.hidden_size,
            placement,
            tied=self.model.embed_tokens if spec.tied_embeddings else None,
            softcap=spec.logits_softcap,
        )

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return plain_spec(config)

    def forward(self, batch: ForwardBatch, kv_caches: list[LayerCache]) -> torch.Tensor:
        """One cache per layer -> [num_tokens, hidden_size], or [num_logits, hidden_size] where
        `batch.read` is given.
        """
        hidden: torch.Tensor = self.model(batch, kv_caches)
        return hidden

    def compute_logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden [m, hidden_size] -> float32 [m, vocab_size], written to `out` if there is one"""
        logits: torch.Tensor = self.lm_head(hidden, out)
        return logits

    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        """(parameter, shard) that a checkpoint tensor fills; None: the model has no use for it."""
        if checkpoint_name.endswith("rotary_emb.inv_freq"):
            return None  # old checkpoints store what the config says
        if checkpoint_name == "lm_head.weight" and self.spec.tied_embeddings:
            return None
        parts = checkpoint_name.split(".")
        module = parts[-2] if len(parts) > 1 else ""
        name, shard = self.renamed.get(module, (module, None))
        return ".".join((*parts[:-2], name, parts[-1])) if name else checkpoint_name, shard

    def checkpoint_name_of(self, parameter: str, shard: str | None) -> str:
        """The inverse of `parameter_of`, for messages."""
        *path, module, tensor = parameter.split(".")
        for theirs, target in self.renamed.items():
            if target == (module, shard):
                return ".".join((*path, theirs, tensor))
        return parameter
