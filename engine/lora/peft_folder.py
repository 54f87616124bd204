"""Reads an adapter from a PEFT folder: the matrices of every target, scaled, in one flat array."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from formgate.engine.adapter import RANK_STEP, AdapterError
from formgate.engine.lora.peft_config import PeftConfig, read_peft_config
from formgate.engine.lora.targets import Layout, Targets

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
PREFIX = "base_model.model."  # PEFT's wrappers around the model
DTYPES = ("F32", "F16", "BF16")
# Of the largest models it has 1 MB. Reading one holds the interpreter's lock: no step runs.
MAX_HEADER_BYTES = 8 << 20
HASHED_BYTES = 8 << 20  # hashed by one thread at a time
DIGEST_SIZE = 16  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class HostAdapter:
    """An adapter in the CPU's memory, for all ranks."""

    ranks: tuple[int, ...]  # of each target; 0: the adapter leaves it as it is
    weights: torch.Tensor  # flat, as `Layout.of(ranks, whole sizes)` says; the model's dtype
    content: str  # hash of both


@dataclass(slots=True)
class _Module:
    """A module's two matrices in the file, by their names."""

    a: str | None = None
    b: str | None = None


@dataclass(frozen=True)
class PeftReader:
    """Reads adapters of one model. Any number of threads may read at once."""

    targets: Targets
    max_rank: int
    dtype: torch.dtype
    pinned: bool  # in memory that the device copies from by itself
    _hashing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(4, "hash-adapter"), repr=False
    )

    def read(self, folder: Path) -> HostAdapter:
        """Raises AdapterError for a folder that holds no adapter of this model."""
        if not folder.is_dir():
            raise AdapterError(f"{folder} is not a folder")
        config = read_peft_config(folder)
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise AdapterError(_missing(folder))
        with _opened(path) as file:
            modules = _modules_of(file, path)
            ranks = self._ranks(file, path, modules, config)
            weights = self._weights(file, path, modules, config, ranks)
        return HostAdapter(tuple(ranks), weights, self._content(ranks, weights))

    def _ranks(
        self, file: Any, path: Path, modules: dict[str, _Module], config: PeftConfig
    ) -> list[int]:
        """The stored rank of each target, after all shapes are found right."""
        ranks = [0] * len(self.targets.targets)
        for name, module in modules.items():
            try:
                indices = self.targets.find(name)
            except AdapterError as error:
                raise AdapterError(f"{path}: {error}") from None
            targets = [self.targets.targets[index] for index in indices]
            rank = config.rank_of(name)
            if rank > self.max_rank:
                raise AdapterError(
                    f"{path}: the rank {rank} of {name} is more than --max-lora-rank "
                    f"{self.max_rank}"
                )
            outputs = sum(target.outputs.full for target in targets)
            wanted = {"a": [rank, targets[0].inputs.full], "b": [outputs, rank]}
            for side, shape in wanted.items():
                tensor = getattr(module, side)
                if tensor is None:
                    raise AdapterError(f"{path} lacks {PREFIX}{name}.lora_{side.upper()}.weight")
                found = file.get_slice(tensor)
                if list(found.get_shape()) != shape:
                    raise AdapterError(
                        f"{path}: {tensor} has shape {list(found.get_shape())}, the model and the "
                        f"rank ask for {shape}"
                    )
                if found.get_dtype() not in DTYPES:
                    raise AdapterError(f"{path}: {tensor} holds {found.get_dtype()}, no floats")
            if any(ranks[index] for index in indices):
                raise AdapterError(f"{path}: two modules cover {name}")
            for index in indices:
                ranks[index] = -(-rank // RANK_STEP) * RANK_STEP
        return ranks

    def _weights(
        self,
        file: Any,
        path: Path,
        modules: dict[str, _Module],
        config: PeftConfig,
        ranks: list[int],
    ) -> torch.Tensor:
        sizes = self.targets.whole_sizes()
        layout = Layout.of(ranks, sizes)
        weights = torch.zeros(layout.size, dtype=self.dtype, pin_memory=self.pinned)
        for name, module in modules.items():
            a, b = file.get_tensor(module.a), file.get_tensor(module.b)
            rank = a.shape[0]
            a, b = a.to(self.dtype), (b.float() * config.scale_of(name, rank)).to(self.dtype)
            for side, matrix in (("A", a), ("B", b)):
                if not matrix.isfinite().all():
                    # Every answer would end as the server's own fault.
                    raise AdapterError(
                        f"{path}: {PREFIX}{name}.lora_{side}.weight, scaled, holds numbers that "
                        f"{str(self.dtype).removeprefix('torch.')} does not: NaN or infinity"
                    )
            first = 0  # output of `b`
            for index in self.targets.find(name):
                inputs, outputs = sizes[index]
                stored, start_a, start_b = layout.table[index].tolist()
                place = weights[start_a : start_a + rank * inputs]
                place.view(rank, inputs).copy_(a)
                place = weights[start_b : start_b + outputs * stored].view(outputs, stored)
                place[:, :rank].copy_(b[first : first + outputs])
                first += outputs
        return weights

    def _content(self, ranks: list[int], weights: torch.Tensor) -> str:
        """Of the weights as they are computed with, so that a file that changes while it is read
        cannot get another's hash.
        """
        data = weights.view(torch.uint8).numpy().data
        parts = [data[at : at + HASHED_BYTES] for at in range(0, len(data), HASHED_BYTES)]
        digest = blake2b(repr(ranks).encode(), digest_size=DIGEST_SIZE)
        for part in self._hashing.map(_digest, parts):
            digest.update(part)
        return digest.hexdigest()


def _digest(part: memoryview) -> bytes:
    return blake2b(part, digest_size=DIGEST_SIZE).digest()


def _modules_of(file: Any, path: Path) -> dict[str, _Module]:
    """The file's modules by their names in the model's checkpoint."""
    modules: dict[str, _Module] = {}
    for tensor in file.keys():  # noqa: SIM118
        name = tensor.removeprefix(PREFIX)
        for side in ("a", "b"):
            ending = f".lora_{side.upper()}.weight"
            if name.endswith(ending):
                setattr(modules.setdefault(name.removesuffix(ending), _Module()), side, tensor)
                break
        else:
            raise AdapterError(f"{path}: {tensor[:200]} is no matrix of LoRA")
    if not modules:
        raise AdapterError(f"{path} holds no matrix")
    return modules


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        _check_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read: %s", path, " ".join(str(error).split()))
        raise AdapterError(f"{path} is damaged or cannot be read") from error


def _check_header(path: Path) -> None:
    """Raises AdapterError for a header too long to read; its length comes first in the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise AdapterError(
            f"{path} is damaged or cannot be read: its header has {length} bytes, of which at most "
            f"{MAX_HEADER_BYTES} are read"
        )


def _missing(folder: Path) -> str:
    for name in PICKLED_FILES:
        if (folder / name).exists():
            return (
                f"{folder} holds its weights only as {name}, a pickle, which can run code; save "
                "them as safetensors"
            )
    return f"{folder} holds no {WEIGHTS_FILE}"
