"""Resolves a model's name to a local folder: the embedded model's, a given one, a download from
the Hugging Face hub, or one made from a GGUF file. It checks which files exist and never reads
weights.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from formgate import embedded
from formgate.engine.loading.gguf_file import GGUFError
from formgate.gateway.serving.gguf_folder import SUFFIX, gguf_file_in, gguf_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
TOKENIZER_PATTERNS = ["*.json", "*.jinja", "*.model", "tokenizer.model.v*", "*.txt"]
WEIGHT_PATTERNS = ["*.safetensors"]
ADAPTER_PATTERNS = ["adapter_config.json", "adapter_model.safetensors"]
IGNORED = ["original/*", "metal/*", "consolidated*"]  # the same weights in other formats


class ModelError(Exception):
    """The model cannot be served. The message is one line that says what to do."""


def resolve_model(
    name: str | None,
    *,
    revision: str | None = None,
    token: str | None = None,
    download_dir: Path | None = None,
    tokenizer_only: bool = False,
) -> Path:
    """The folder of model `name`, or of the embedded model if None. A name is a folder, a GGUF
    file, `owner/model` on the hub, or `owner/model:file.gguf`, where the file may be named by a
    part, such as `Q4_K_M`. Downloads what is missing, with progress bars. Raises ModelError.
    """
    if name is None:
        return embedded.path()
    path = Path(name).expanduser()
    if path.is_dir():
        return _prepared(path.resolve())
    if path.is_file() and path.suffix == SUFFIX:
        return _made_from(path)
    is_file = name.endswith(SUFFIX) and ":" not in name
    if is_file or name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise ModelError(f"{name} is neither a folder nor a GGUF file.")
    name, _, file = name.partition(":")
    if file:
        patterns = [file if file.endswith(SUFFIX) else f"*{file}*{SUFFIX}"]
    else:
        patterns = TOKENIZER_PATTERNS + ([] if tokenizer_only else WEIGHT_PATTERNS)
    folder = _download(name, patterns, revision, token, download_dir)
    return _made_from(_only_match(name, folder, patterns[0])) if file else folder


def resolve_adapter(name: str, *, token: str | None, download_dir: Path | None) -> Path:
    """The folder of an adapter, as `resolve_model` finds a model's."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or folder.exists():
        raise ModelError(f"{name} is not a folder.")
    return _download(name, ADAPTER_PATTERNS, None, token, download_dir)


def _prepared(folder: Path) -> Path:
    """The folder, or the one made from the GGUF file that it holds instead of a config."""
    try:
        file = gguf_file_in(folder)
    except GGUFError as error:
        raise ModelError(f"{error}.") from None
    return folder if file is None else _made_from(file)


def _made_from(file: Path) -> Path:
    try:
        return gguf_folder(file)
    except GGUFError as error:
        raise ModelError(f"{error}.") from None
    except OSError as error:
        raise ModelError(f"{file.name} could not be prepared: {_one_line(error)}.") from None


def _only_match(name: str, folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ModelError(f"{name} has no file {pattern} on the Hugging Face hub.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"{name} has several files {pattern}, name one of them: {names}.")
    return found[0]


def _download(
    name: str,
    patterns: list[str],
    revision: str | None,
    token: str | None,
    download_dir: Path | None,
) -> Path:
    token = token or os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                cache_dir=download_dir,
                allow_patterns=patterns,
                ignore_patterns=IGNORED,
            )
        )
    except GatedRepoError:
        page = f"https://huggingface.co/{name}"
        if token:
            raise ModelError(
                f"{name} is gated and this token has no access: ask for it on {page}."
            ) from None
        raise ModelError(
            f"{name} is gated: ask for access on {page}, then set HF_TOKEN or pass --hf-token."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision} on the Hugging Face hub.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{name} is neither a folder here nor a model on the Hugging Face hub "
            "(a private one needs HF_TOKEN or --hf-token)."
        ) from None
    except HFValidationError:
        raise ModelError(f"{name} is neither a folder nor a hub name (owner/model).") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ModelError(
            f"{name} is not on this disk and the Hugging Face hub cannot be reached: "
            "check the network (and HF_HUB_OFFLINE), or name a local folder."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise ModelError(
                "The Hugging Face hub does not know this token: check HF_TOKEN or --hf-token."
            ) from None
        raise ModelError(f"{name}: the Hugging Face hub answered with status {status}.") from None
    except OSError as error:
        raise ModelError(f"{name} could not be downloaded: {_one_line(error)}.") from None


def check_model_folder(model_dir: Path, tokenizer_dir: Path, *, weights: bool) -> None:
    """Raise a ModelError that names the first missing file, if the folder lacks a required one."""
    config = model_dir / "config.json"
    if not config.is_file():
        raise ModelError(f"{model_dir} has no config.json: it is not a Hugging Face model folder.")
    try:
        readable = isinstance(json.loads(config.read_bytes()), dict)
    except ValueError:
        readable = False
    if not readable:
        raise ModelError(f"{config} is not a JSON object.")
    if weights:
        _check_weights(model_dir)
    versioned = any(tokenizer_dir.glob("tokenizer.model.v*"))
    if not versioned and not any((tokenizer_dir / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{tokenizer_dir} has no tokenizer.json.")


def _check_weights(model_dir: Path) -> None:
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{index} is not an index of weights.") from None
        for name in files:
            if not (model_dir / name).is_file():
                raise ModelError(f"{model_dir} has no {name}, which its index of weights names.")
    elif not any(model_dir.glob("*.safetensors")) and not any(model_dir.glob("*" + SUFFIX)):
        if any(model_dir.glob("*.bin")) or any(model_dir.glob("*.pt")):
            raise ModelError(
                f"{model_dir} has weights in pickle files only; formgate loads safetensors."
            )
        raise ModelError(f"{model_dir} has no weights (*.safetensors).")


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
