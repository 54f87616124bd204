"""The line of text that a text-only model is shown in place of an image, a recording or a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "image_file": "image",
    "computer_screenshot": "image",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
    "video": "video",
    "video_url": "video",
    "document": "document",
    "file": "file",
    "input_file": "file",
}
_MAX_CHARS = 100  # of a name


def unseen_part(kind: str, fields: Mapping[str, Any]) -> str:
    """Such as `[image]` or `[document: title]`; an unknown kind is shown by its name."""
    shown = _KINDS.get(kind, kind)
    inner = fields.get(kind)
    for source in (fields, inner if isinstance(inner, Mapping) else {}):
        for key in ("title", "filename", "tool_name"):
            if isinstance(name := source.get(key), str) and name.strip():
                return f"[{_line(shown)}: {_line(name)}]"
    return f"[{_line(shown)}]"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARS else line[:_MAX_CHARS] + "..."
