"""What a model that reads text is shown in place of a picture, a recording or a file: one line that
says what was there.
"""

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
    """`[image]`, `[document: title]`; for a kind that is not known, its own name."""
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
