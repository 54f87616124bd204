"""Loads a model from a Hugging Face folder: the config, the weights' files (safetensors, or one
GGUF file), the dtype. Each parameter's own loader takes its slice of a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parameter import (
    FileTensor,
    WeightParameter,
    WeightShapeError,
    WeightSplitError,
)
from formgate.engine.loading.gguf_file import GGUFError
from formgate.engine.loading.gguf_weights import GGUFWeights
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ConfigError, ModelConfig
from formgate.engine.models.registry import architecture_named

Progress = Callable[[str, int, int], None]  # (stage in words, done, total)

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
NAMES_IN_MESSAGE = 5


class WeightsError(ValueError):
    """The model folder cannot be loaded. The message is one line for the operator."""


def load_model_config(folder: Path) -> ModelConfig:
    """Read config.json. Raises WeightsError, or UnsupportedModelError for an unknown model type."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder")
    raw = _read_json(path)
    if not isinstance(raw, dict):
        raise WeightsError(f"{path} holds no JSON object")
    named = raw.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    try:
        return architecture_named(names).read_config(raw)
    except ConfigError as error:
        raise WeightsError(f"{path} is not a valid config: {error}") from error


def load_weights(
    model: CausalLM,
    folder: Path,
    *,
    progress: Progress,
    skips: Callable[[str], bool] | None = None,
) -> None:
    """Fill `model` from the folder's files, converted to the parameters' dtype and device.
    Raises WeightsError if a parameter gets no tensor, or a tensor belongs to no parameter and
    `skips` does not name it.
    """
    parameters = _weight_parameters(model)
    missing = {
        (name, shard)
        for name, parameter in parameters.items()
        if not parameter.optional
        for shard in parameter.shards or (None,)
    }
    unexpected: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        # Read all headers first, to report a damaged shard before minutes of copying.
        paths = find_weight_files(folder)
        files = [(path, stack.enter_context(_open(path, model.dtype))) for path in paths]
        names = [(path, file, name) for path, file in files for name in file.keys()]  # noqa: SIM118
        for done, (path, file, name) in enumerate(names):
            progress("loading weights", done, len(names))
            target = model.parameter_of(name)
            if target is None or (skips is not None and skips(name)):
                continue
            parameter_name, shard = target
            parameter = parameters.get(parameter_name)
            if parameter is None or not (shard is None or shard in parameter.shards):
                if name.endswith(".bias") and not FileTensor.of(file, name).read().any():
                    continue  # quantizers add biases of zeros
                unexpected.append(name)
                continue
            try:
                parameter.weight_loader(FileTensor.of(file, name), shard)
            except (WeightShapeError, WeightSplitError) as error:
                raise WeightsError(f"{path.name}: {name} {error}") from error
            except SafetensorError as error:
                raise WeightsError(f"{path} is damaged: {_one_line(error)}") from error
            shards = parameter.shards if shard is None else ()
            missing -= {(parameter_name, shard), *((parameter_name, part) for part in shards)}
        progress("loading weights", len(names), len(names))
    if missing:
        wanted = sorted(model.checkpoint_name_of(name, shard) for name, shard in missing)
        raise WeightsError(f"{folder} lacks {_some(wanted)}")
    if unexpected:
        raise WeightsError(f"{folder} holds tensors unknown to this model: {_some(unexpected)}")
    _finish_loading(model)


def dummy_weights(model: CausalLM, seed: int) -> None:
    """Fill `model` with small random values, drawn on its device (`--load-format dummy`)."""
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for parameter in _weight_parameters(model).values():
            device = parameter.device
            if device not in generators:
                generators[device] = torch.Generator(device).manual_seed(seed)
            parameter.dummy(parameter.data, generators[device])
    _finish_loading(model)


def resolve_dtype(name: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    """`auto` is the checkpoint's dtype on CUDA (float16 if the GPU lacks bfloat16). On a CPU it is
    bfloat16, or float32 if the CPU only emulates bfloat16, which is several times slower.
    """
    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32
    own = getattr(config, "dtype", None) or torch.bfloat16
    if isinstance(own, str):
        own = getattr(torch, own)
    assert isinstance(own, torch.dtype)
    if own is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return own


def cpu_has_fast_bfloat16() -> bool:
    """True if the CPU multiplies bfloat16 matrices in hardware (AMX or AVX-512)."""
    # Not every supported torch has `get_capabilities`; without it, assume no.
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = capabilities()
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def find_weight_files(folder: Path) -> list[Path]:
    """The index's shards, else the single file, else every safetensors file of the folder, else its
    GGUF file. Raises WeightsError if there is none, or a shard is missing.
    """
    if (folder / INDEX_FILE).exists():
        index = _read_json(folder / INDEX_FILE)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise WeightsError(f"{folder / INDEX_FILE} has no weight_map")
        # Only the file name counts: an index must not point outside its folder.
        files = [folder / name for name in sorted({Path(str(v)).name for v in shards.values()})]
        if absent := [path.name for path in files if not path.is_file()]:
            raise WeightsError(f"{folder} lacks {_some(absent)}, named in {INDEX_FILE}")
        return files
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    # `consolidated*` holds the same weights again, under the original authors' names.
    files = sorted(
        path for path in folder.glob("*.safetensors") if not path.stem.startswith("consolidated")
    )
    if files := files or sorted(folder.glob("*.gguf"))[:1]:
        return files
    if any(_pickled_files(folder)):
        raise WeightsError(
            f"{folder} holds weights only as pickled .bin or .pt files, which can run code; "
            "convert them to safetensors"
        )
    raise WeightsError(f"{folder} holds no .safetensors file")


def _pickled_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.bin", "*.pt", "*.pth"):
        yield from folder.glob(pattern)


def _weight_parameters(model: CausalLM) -> dict[str, WeightParameter]:
    parameters: dict[str, WeightParameter] = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, WeightParameter), name
        parameters[name] = parameter
    return parameters


def _finish_loading(model: CausalLM) -> None:
    for module in reversed(list(model.modules())):  # which are listed before their parts
        if isinstance(module, Layer):
            module.finish_loading()


def _open(path: Path, dtype: torch.dtype) -> Any:
    try:
        if path.suffix == ".gguf":
            return GGUFWeights(path, dtype)
        return safe_open(path, framework="pt", device="cpu")
    except GGUFError as error:
        raise WeightsError(str(error)) from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or truncated: {_one_line(error)}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path.parent} holds no {path.name}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_IN_MESSAGE
    listed = ", ".join(names[:NAMES_IN_MESSAGE])
    return f"{listed} and {more} more" if more > 0 else listed
