"""The caller of the current request: its API key, and the usage of its answer. The middleware makes
one for each request; services, which know no HTTP, record the usage.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from formgate.gateway.answers.usage import Usage
from formgate.gateway.api_keys import ApiKey


@dataclass(slots=True)
class Caller:
    key: ApiKey | None = None
    model: str | None = None
    adapter: str | None = None  # `model` if it is an adapter's name
    usage: Usage | None = None
    unenforced: str = ""  # keywords of tools, as the response header says them

    def cache_salt(self, given: str | None) -> str | None:
        """The prefix cache's salt; `given` is the request's own."""
        return given if self.key is None else self.key.cache_salt(given)

    def log_fields(self) -> dict[str, Any]:
        """The known fields, for the log."""
        fields: dict[str, Any] = {}
        if self.model is not None:
            fields["model"] = self.model
        if self.key is not None:
            fields["key"] = self.key.name
        if self.usage is not None:
            fields["prompt_tokens"] = self.usage.prompt_tokens
            fields["completion_tokens"] = self.usage.completion_tokens
        return fields


_current: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Set the caller for this task and the tasks that it starts."""
    _current.set(caller)


def current_caller() -> Caller:
    """The current request's caller; a blank one outside of a request."""
    return _current.get(None) or Caller()
