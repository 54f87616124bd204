"""What `formgate doctor` finds: a state for each subject, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30
State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`wrong`: `formgate serve` would fail. `note`: it serves, but slower or with less."""

    subject: str
    state: State
    said: str
    remedy: str = ""


def gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.0f} MiB"
