"""The tensors of a GGUF file under Hugging Face's names and in its layout, dequantized as they are
read.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.loading.gguf_config import ROPE_FACTORS
from formgate.engine.loading.gguf_file import GGUFHeader, StoredGGUFTensor, read_gguf_header

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_INNER = {
    **_INNER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_PART_BYTES = 256 << 10  # of stored bytes, that a thread dequantizes at a time


class GGUFWeights:
    """An open file, read like one of `safetensors.safe_open`: `keys`, `get_tensor`, `get_slice`.
    Tensors come in `dtype`, those of one dimension in float32. Raises GGUFError.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.header = read_gguf_header(path)
        self._dtype = dtype
        self._names = dict(_hugging_face_names(self.header))
        architecture = str(self.header.metadata.get("general.architecture"))
        # The converter of Llama reorders the rows of queries and keys, for a rotary embedding that
        # turns neighbouring dimensions.
        self._heads = _permuted_heads(self.header) if architecture == "llama" else {}
        self._norms_are_offset = architecture.startswith("gemma")
        with path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._content.close()

    def keys(self) -> list[str]:
        return list(self._names)

    def get_slice(self, name: str) -> GGUFSlice:
        return GGUFSlice(self, name, self._stored(name).shape)

    def get_tensor(self, name: str) -> torch.Tensor:
        return self.read_rows(name, 0, self._stored(name).shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor; only these are dequantized."""
        stored = self._stored(name)
        module = name.rsplit(".", 2)[-2]
        if heads := self._heads.get(module):
            return _unpermuted(self._read(stored, 0, stored.shape[0]), heads)[start:stop]
        tensor = self._read(stored, start, stop)
        if self._norms_are_offset and module.endswith("norm"):
            tensor -= 1.0  # Hugging Face's checkpoints store the difference from 1
        return tensor

    def _stored(self, name: str) -> StoredGGUFTensor:
        return self.header.tensors[self._names[name]]

    def _read(self, stored: StoredGGUFTensor, start: int, stop: int) -> torch.Tensor:
        """Rows of a tensor as they are stored, in torch's dtype."""
        if len(stored.shape) == 1:
            raw = self._raw(stored.start, stored.row_bytes)
            return torch.from_numpy(_dequantized(raw, stored)[start:stop])
        rows = int(np.prod(stored.shape[1:-1], dtype=np.int64))  # stored rows in one of the tensor
        target = torch.empty((stop - start, *stored.shape[1:]), dtype=self._dtype)
        flat = target.view(-1, stored.shape[-1])
        step = max(1, _PART_BYTES // stored.row_bytes)

        def fill(first: int) -> None:
            held = flat[first : first + step]
            at = stored.start + (start * rows + first) * stored.row_bytes
            raw = self._raw(at, len(held) * stored.row_bytes)
            held.copy_(torch.from_numpy(_dequantized(raw, stored)).view_as(held))

        parts = range(0, len(flat), step)
        if len(parts) == 1:
            fill(0)
            return target
        with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as threads:
            for _ in threads.map(fill, parts):
                pass
        return target

    def _raw(self, start: int, length: int) -> NDArray[np.uint8]:
        # A copy: nothing may refer to the mapping when it is closed.
        return np.frombuffer(self._content, np.uint8, count=length, offset=start).copy()


class GGUFSlice:
    """Like safetensors' slice of a tensor."""

    def __init__(self, weights: GGUFWeights, name: str, shape: tuple[int, ...]) -> None:
        self._weights = weights
        self._name = name
        self._shape = shape

    def get_shape(self) -> list[int]:
        return list(self._shape)

    def __getitem__(self, slices: tuple[slice, ...]) -> torch.Tensor:
        start, stop, _ = slices[0].indices(self._shape[0])
        return self._weights.read_rows(self._name, start, stop)[(slice(None), *slices[1:])]


def _dequantized(raw: NDArray[np.uint8], stored: StoredGGUFTensor) -> NDArray[np.float32]:
    """The numbers of whole blocks, both [n]."""
    import gguf  # takes a second, which only GGUF files cost

    kind = gguf.GGMLQuantizationType(stored.type.number)
    # As one row: the package takes rows one by one, and blocks know nothing of rows.
    values: NDArray[np.float32] = gguf.dequantize(raw.reshape(1, -1), kind)
    return values.reshape(-1)


def _hugging_face_names(header: GGUFHeader) -> Iterator[tuple[str, str]]:
    """(Hugging Face's name, name in the file); a name that is not known stays."""
    architecture = str(header.metadata.get("general.architecture"))
    inner = _GEMMA_INNER if architecture.startswith("gemma") else _INNER
    for name in header.tensors:
        if name == ROPE_FACTORS:
            continue  # the config has their rule
        module, _, part = name.rpartition(".")
        if (match := _BLOCK.fullmatch(name)) and match[2] in inner:
            yield f"model.layers.{match[1]}.{inner[match[2]]}.{match[3]}", name
        elif module in _OUTER:
            yield f"{_OUTER[module]}.{part}", name
        else:
            yield name, name


def _permuted_heads(header: GGUFHeader) -> Mapping[str, int]:
    heads = header.metadata.get("llama.attention.head_count")
    groups = header.metadata.get("llama.attention.head_count_kv", heads)
    return {"q_proj": _one(heads), "k_proj": _one(groups)}


def _one(value: Any) -> int:
    return value if isinstance(value, int) else int(value[0])


def _unpermuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in Hugging Face's order: in each head the first of all turned pairs, then the second."""
    if tensor.shape[0] % (2 * heads):
        return tensor  # a wrong shape, which the loader names
    pairs = tensor.view(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
