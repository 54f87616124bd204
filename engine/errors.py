"""Why an engine cannot start, in the operator's words."""

from __future__ import annotations


class EngineStartError(Exception):
    """The message is one line: what is wrong and, where there is one, which flag to change."""
