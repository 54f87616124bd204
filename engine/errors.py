"""The error that an operator sees when the engine cannot start."""

from __future__ import annotations


class EngineStartError(Exception):
    """The message is one line: the problem and, if one helps, the flag to change."""
