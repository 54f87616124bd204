"""The options of adapters: their ranges, and `--lora-modules`, from `name=path` or vLLM's JSON to
the folders of the adapters that a server loads at start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from formgate.engine.adapter import AdapterSource
from formgate.gateway.served_models import ServedModels, wrong_adapter_name
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.model_hub import ModelError, resolve_adapter

JSON_FIELDS = ("name", "path", "base_model_name")


def parsed_modules(words: Iterable[str]) -> list[tuple[str, str, str | None]]:
    """(name, folder or hub name, base model's name) of each module. Raises ValueError with the
    reason in one line.
    """
    modules = [_parsed(word) for word in words]
    names = [name for name, _, _ in modules]
    for name in names:
        if (reason := wrong_adapter_name(name)) is not None:
            raise ValueError(reason)
        if names.count(name) > 1:
            raise ValueError(f"two adapters have the name {name}")
    return modules


def wrong_lora_option(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """(name, reason) of the first invalid option of adapters, or None."""
    if not values.get("enable_lora"):
        for name in ("lora_modules", "lora_dir"):
            if values.get(name):
                return name, "needs --enable-lora"
    try:
        parsed_modules(values.get("lora_modules", ()))
    except ValueError as error:
        return "lora_modules", str(error)
    slots, in_memory = values.get("max_loras", 4), values.get("max_cpu_loras")
    if in_memory is not None and in_memory < slots:
        return "max_cpu_loras", f"{in_memory} is less than --max-loras {slots}"
    return None


def adapter_sources(config: ServerConfig) -> tuple[AdapterSource, ...]:
    """The adapters of `--lora-modules`, downloaded where need be. Raises ModelError."""
    served = ServedModels.of(config)
    sources = []
    try:
        modules = parsed_modules(config.lora_modules)
    except ValueError as error:
        raise ModelError(f"--lora-modules: {error}") from None
    for name, path, base in modules:
        if name in served.names:
            raise ModelError(f"--lora-modules: {name} is the model's own name")
        try:
            folder = resolve_adapter(path, token=config.hf_token, download_dir=config.download_dir)
        except ModelError as error:
            raise ModelError(f"--lora-modules: {name}: {error}") from None
        sources.append(AdapterSource(name, folder, base))
    return tuple(sources)


def checked_lora_dir(config: ServerConfig) -> Path | None:
    """Raises ModelError."""
    if config.lora_dir is not None and not config.lora_dir.is_dir():
        raise ModelError(f"--lora-dir: {config.lora_dir} is not a folder")
    return config.lora_dir


def _parsed(word: str) -> tuple[str, str, str | None]:
    if not word.startswith("{"):
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise ValueError(f"{word} is not NAME=PATH")
        return name, path, None
    try:
        fields = json.loads(word)
    except ValueError:
        raise ValueError(f"not JSON: {word}") from None
    if unknown := sorted(set(fields) - set(JSON_FIELDS)):
        raise ValueError(f"unknown field {unknown[0]}")
    for field in JSON_FIELDS[:2]:
        if not isinstance(fields.get(field), str) or not fields[field]:
            raise ValueError(f"{word} has no {field}")
    base = fields.get("base_model_name")
    if base is not None and not isinstance(base, str):
        raise ValueError(f"base_model_name of {fields['name']} is no text")
    return fields["name"], fields["path"], base
