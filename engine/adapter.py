"""An adapter as requests and sequences refer to it, and the error that refuses one. Weights and
slots belong to `engine.lora`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RANK_STEP = 16  # ranks are stored as multiples of it, which the kernels compute with at once


class AdapterError(ValueError):
    """The adapter cannot be served. The message is one line that names the file or the field."""


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter to load: the name that requests give as `model`, and its PEFT folder."""

    name: str
    path: Path
    base_model_name: str | None = None  # shown as the adapter's parent; None: the served model


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter. Loading its name again makes another one; sequences keep theirs."""

    source: AdapterSource
    content: str  # hash of the weights as they are computed with; equal ones share slot and blocks
