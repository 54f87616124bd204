"""The one thing that the engine reads from a checkpoint's generation_config.json: which tokens end
an answer, beside those that config.json names.
"""

from __future__ import annotations

import json
from pathlib import Path

GENERATION_CONFIG = "generation_config.json"


def eos_token_ids(model_dir: Path, from_config: tuple[int, ...]) -> frozenset[int]:
    """Chat models often name the end of a turn only in generation_config.json."""
    try:
        given = json.loads((model_dir / GENERATION_CONFIG).read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):  # optional, and not ours to judge
        given = None
    more = given if isinstance(given, list) else [given]
    return frozenset(from_config).union(x for x in more if isinstance(x, int))
