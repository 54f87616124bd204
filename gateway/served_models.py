"""The names of the served model, and their entries in `/v1/models`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from formgate.gateway.errors import model_not_found
from formgate.gateway.server_config import ServerConfig

EMBEDDED_NAME = "formgate-embedded"


@dataclass(frozen=True)
class ServedModels:
    names: tuple[str, ...]  # answers and metrics show the first
    root: str
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, config: ServerConfig) -> ServedModels:
        root = config.model or EMBEDDED_NAME
        return cls(config.served_model_name or (root,), root)

    @property
    def default(self) -> str:
        return self.names[0]

    def resolve(self, name: str | None) -> str:
        """The served name for a request's `model`, which may be None. Raises ApiError 404."""
        if not name:
            return self.default
        if name not in self.names:
            raise model_not_found(name)
        return name

    def card(self, name: str, max_model_len: int | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "formgate",
            "root": self.root,
            "parent": None,
            "max_model_len": max_model_len,
        }
