"""Calls the command that the first word names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Name = Literal["check", "doctor", "chat", "bench"]


def run_command(name: Name, words: Sequence[str]) -> int:
    """The exit code of command `name`. It imports that command alone."""
    match name:
        case "check":
            from formgate.gateway.commands.check import check_command

            return check_command(words)
        case "doctor":
            from formgate.gateway.commands.doctor import doctor_command

            return doctor_command(words)
        case "chat":
            from formgate.gateway.commands.chat import chat_command

            return chat_command(words)
        case "bench":
            from formgate.gateway.commands.bench import bench_command

            return bench_command(words)
