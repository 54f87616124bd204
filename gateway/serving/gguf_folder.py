"""A GGUF file as a Hugging Face folder: config.json and the tokenizer's files, made from the file's
metadata, and a link to the file, from which the engine reads the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from formgate.engine.loading.gguf_config import gguf_config
from formgate.engine.loading.gguf_file import GGUFError, read_gguf_header
from formgate.gateway.model.gguf_tokenizer import gguf_tokenizer

SUFFIX = ".gguf"
LINK_NAME = "model.gguf"
PROJECTORS = "mmproj"  # begins the name of a file that holds a vision tower only


def gguf_folder(file: Path) -> Path:
    """Make the folder in the user's cache, anew each time. Raises GGUFError or OSError, each with a
    message of one line.
    """
    header = read_gguf_header(file)
    config = gguf_config(header)
    tokenizer, tokenizer_config = gguf_tokenizer(header)
    folder = _cache() / hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", config)
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", tokenizer_config)
    _replace(folder / LINK_NAME, lambda new: new.symlink_to(file.resolve()))
    return folder


def gguf_file_in(folder: Path) -> Path | None:
    """The one GGUF file of a folder that has no config.json; None if there is none. Raises
    GGUFError if there are several.
    """
    if (folder / "config.json").is_file():
        return None
    found = sorted(
        path for path in folder.glob("*" + SUFFIX) if not path.name.startswith(PROJECTORS)
    )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise GGUFError(f"{folder} holds several GGUF files, name one of them: {names}")
    return found[0] if found else None


def _cache() -> Path:
    """A folder that outlives the server, so that its processes and a later start find the same."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = root / "formgate" / "gguf"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to
        return Path(tempfile.mkdtemp(prefix="formgate-gguf-"))
    return cache


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False)
    _replace(path, lambda new: new.write_text(text, encoding="utf-8"))


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    """In one step: another server may read the same file."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    make(new)
    new.replace(path)
