"""The model as the trainer sees it: a small Llama in plain torch, saved under Hugging Face names.

Documents packed in one row never see each other: attention is masked by document, with
FlexAttention on CUDA and a dense mask elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

BOS, EOS = 1, 2


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 6400
    hidden: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    head: int = 64
    intermediate: int = 1024
    positions: int = 4096
    theta: float = 10_000.0
    epsilon: float = 1e-5

    def config(self) -> dict[str, Any]:
        """config.json of a LlamaForCausalLM."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "rope_theta": self.theta,
            "rms_norm_eps": self.epsilon,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "use_cache": True,
        }


Mask = BlockMask | Tensor


def document_mask(tokens: Tensor) -> Mask:
    """Causal within each document; tokens: [rows, length], each document opens with `<s>`."""
    document = (tokens == BOS).cumsum(1)  # [rows, length]
    rows, length = tokens.shape
    if tokens.is_cuda:

        def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (document[row, query] == document[row, key])

        return create_block_mask(allowed, rows, None, length, length, device="cuda", _compile=True)
    same = document[:, :, None] == document[:, None, :]  # [rows, length, length]
    return (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]


def rotary(length: int, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each [length, head], in Hugging Face's half-split layout."""
    inverse = shape.theta ** -(torch.arange(0, shape.head, 2, device=device).float() / shape.head)
    angle = torch.outer(torch.arange(length, device=device).float(), inverse).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # x: [rows, heads, length, head]
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).type_as(x)


class Norm(nn.Module):
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.size(-1),), self.weight.type_as(x), self.epsilon)


class Attention(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head, s.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask) -> Tensor:
        rows, length, _ = x.shape
        s = self.shape
        q = self.q_proj(x).view(rows, length, s.heads, s.head).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, s.kv_heads, s.head).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, s.kv_heads, s.head).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if isinstance(mask, Tensor):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        else:
            out = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.down_proj = nn.Linear(s.intermediate, s.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(s.hidden, s.epsilon)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden, s.epsilon)
        self.mlp = MLP(s)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Hidden states in, loss out: the logits of prompt tokens are never computed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02
                nn.init.normal_(parameter, std=std)

    def loss(self, tokens: Tensor, mask: Mask, at: Tensor, wanted: Tensor) -> Tensor:
        """Mean cross-entropy. at, wanted: [targets], flat positions and the tokens that follow
        them; a wanted of -100 is padding."""
        cos, sin = rotary(tokens.size(1), self.shape, tokens.device)
        x = self.embed_tokens(tokens)  # [rows, length, hidden]
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        chosen = self.norm(x.flatten(0, 1)[at])  # [targets, hidden]
        return F.cross_entropy(F.linear(chosen, self.embed_tokens.weight).float(), wanted)


def save(state: dict[str, Tensor], shape: Shape, out: Path) -> None:
    """Weights (bf16), config.json and generation_config.json of the shipped folder."""
    out.mkdir(parents=True, exist_ok=True)
    named = {
        f"model.{k}": v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in state.items()
    }
    save_file(named, str(out / "model.safetensors"), metadata={"format": "pt"})
    generation = {
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
        "do_sample": False,
        "max_new_tokens": 512,
    }
    for name, values in (("config", shape.config()), ("generation_config", generation)):
        (out / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Tensor]:
    return {k.removeprefix("model."): v for k, v in load_file(str(path)).items()}


def save_shards(state: dict[str, Tensor], out: Path, count: int = 3) -> None:
    """bf16 weights in files of about equal size, for a channel that limits a file's size."""
    out.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in sorted(state.items(), key=lambda item: -item[1].numel()):
        smallest = min(parts, key=lambda part: sum(v.numel() for v in part.values()))
        smallest[name] = value.detach().to("cpu", torch.bfloat16).contiguous()
    for number, part in enumerate(parts):
        save_file(part, str(out / f"weights-{number}.safetensors"))


def load_shards(folder: Path) -> dict[str, Tensor]:
    """The weights of all safetensors files of a folder: shards, or a shipped folder."""
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load(path)
    assert state, folder
    return state
