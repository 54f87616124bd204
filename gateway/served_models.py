"""The names that a request's `model` may have, the model's own and its adapters', and their entries
in `/v1/models`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from formgate.engine.messages import AdapterInfo
from formgate.gateway.errors import model_not_found
from formgate.gateway.server_config import ServerConfig

EMBEDDED_NAME = "formgate-embedded"
MAX_ADAPTER_NAME_CHARS = 256


def wrong_adapter_name(name: str) -> str | None:
    """The reason why no adapter can have this name, or None."""
    if not name or len(name) > MAX_ADAPTER_NAME_CHARS:
        return f"an adapter's name has 1 to {MAX_ADAPTER_NAME_CHARS} characters"
    if not name.isprintable() or name != name.strip() or "," in name:
        return "an adapter's name has no control characters, no commas and no spaces around it"
    return None


@dataclass(frozen=True)
class ServedModels:
    names: tuple[str, ...]  # answers and metrics show the first
    root: str
    created: int = field(default_factory=lambda: int(time.time()))
    adapters: Mapping[str, AdapterInfo] = field(default_factory=dict)  # by name; changes

    @classmethod
    def of(cls, config: ServerConfig) -> ServedModels:
        root = config.model or EMBEDDED_NAME
        return cls(config.served_model_name or (root,), root)

    @property
    def default(self) -> str:
        return self.names[0]

    def all_names(self) -> list[str]:
        return [*self.names, *self.adapters]

    def knows(self, name: str) -> bool:
        return name in self.names or name in self.adapters

    def is_adapter(self, name: str) -> bool:
        return name in self.adapters and name not in self.names

    def resolve(self, name: str | None) -> str:
        """The served name for a request's `model`, which may be None. Raises ApiError 404."""
        if not name:
            return self.default
        if not self.knows(name):
            raise model_not_found(name)
        return name

    def card(self, name: str, max_model_len: int | None) -> dict[str, Any]:
        adapter = self.adapters[name] if self.is_adapter(name) else None
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "formgate",
            "root": self.root if adapter is None else adapter.path,
            "parent": None if adapter is None else adapter.base_model_name or self.default,
            "max_model_len": max_model_len,
        }
