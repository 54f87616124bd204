"""The EOS tokens in a checkpoint's generation_config.json. The engine reads nothing else of it."""

from __future__ import annotations

import json
from pathlib import Path

GENERATION_CONFIG = "generation_config.json"


def eos_token_ids(model_dir: Path, from_config: tuple[int, ...]) -> frozenset[int]:
    """`from_config` and the ids in generation_config.json, where many chat models alone name their
    end of turn. A file that is missing or malformed is ignored.
    """
    try:
        given = json.loads((model_dir / GENERATION_CONFIG).read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):  # the file is optional
        given = None
    more = given if isinstance(given, list) else [given]
    return frozenset(from_config).union(x for x in more if isinstance(x, int))
