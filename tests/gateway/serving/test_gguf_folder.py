"""From the name of a GGUF file to a folder that serves it, and what is said about one that will not
do.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from formgate.engine.loading.weights import load_model_config, load_weights
from formgate.engine.models.registry import build_model
from formgate.gateway import cli
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.serving import model_hub
from formgate.gateway.serving.model_hub import ModelError, check_model_folder, resolve_model
from tests.engine.loading.gguf_writing import gguf_tensors, metadata_of, write_gguf

BOMB = b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tiny(path: Path, **changes: Any) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["Hello"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    tokens = [tokenizer.id_to_token(i) for i in range(257)] + ["<|end|>"]
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    metadata = metadata_of(model, "llama") | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3],
        "tokenizer.ggml.merges": [" ".join(tokens[256])],
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.chat_template": "{{ messages[-1].content }}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, "llama", metadata | changes, gguf_tensors(model, "llama"))
    return path


def assert_serves(folder: Path) -> None:
    check_model_folder(folder, folder, weights=True)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("Hello, ä")) == "Hello, ä"
    assert tokenizer.eos_ids == (257,)
    assert tokenizer.chat_templates["default"].startswith("{{")
    model = build_model(load_model_config(folder), torch.float32, torch.device("cpu"))
    load_weights(model, folder, progress=lambda stage, done, total: None)
    assert model.model.embed_tokens.weight.std() > 0


def test_a_file(tmp_path: Path, cache: Path) -> None:
    folder = resolve_model(str(tiny(tmp_path / "tiny.gguf")))
    assert folder.is_relative_to(cache)
    assert_serves(folder)
    assert sum(path.stat().st_size for path in folder.glob("*.json")) < 100_000


def test_the_one_file_of_a_folder(tmp_path: Path) -> None:
    tiny(tmp_path / "model" / "tiny.gguf")
    (tmp_path / "model" / "mmproj-f16.gguf").write_bytes(b"a vision tower")
    assert_serves(resolve_model(str(tmp_path / "model")))


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    file = tiny(tmp_path / "tiny.gguf")
    before = resolve_model(str(file))
    tiny(file, **{"tokenizer.chat_template": "{# new #}"})
    assert resolve_model(str(file)) == before
    assert load_tokenizer(before).chat_templates["default"] == "{# new #}"


def test_two_files_have_two_folders(tmp_path: Path) -> None:
    first, second = (tiny(tmp_path / name / "tiny.gguf") for name in "ab")
    assert resolve_model(str(first)) != resolve_model(str(second))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file is in the way")
    assert_serves(resolve_model(str(tiny(tmp_path / "tiny.gguf"))))


@pytest.mark.parametrize(
    ("name", "asked"),
    [("owner/model:tiny.gguf", "tiny.gguf"), ("owner/model:Q4_K_M", "*Q4_K_M*.gguf")],
)
def test_a_file_on_the_hub(
    name: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns: list[list[str]] = []

    def download(repository: str, *, allow_patterns: list[str], **options: Any) -> str:
        assert repository == "owner/model"
        patterns.append(allow_patterns)
        tiny(tmp_path / "hub" / allow_patterns[0].replace("*", "tiny"))
        return str(tmp_path / "hub")

    monkeypatch.setattr(model_hub, "snapshot_download", download)
    assert_serves(resolve_model(name))
    assert patterns == [[asked]]


def test_a_file_that_is_not_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hub, "snapshot_download", lambda *_, **options: str(tmp_path))
    with pytest.raises(ModelError, match=r"owner/model has no file \*Q9\*\.gguf"):
        resolve_model("owner/model:Q9")
    tiny(tmp_path / "a-Q9.gguf")
    tiny(tmp_path / "b-Q9.gguf")
    with pytest.raises(ModelError, match=r"several files .*: a-Q9\.gguf, b-Q9\.gguf"):
        resolve_model("owner/model:Q9")


def test_several_files_in_a_folder(tmp_path: Path) -> None:
    tiny(tmp_path / "a.gguf")
    tiny(tmp_path / "b.gguf")
    with pytest.raises(ModelError, match=r"several GGUF files, name one of them: a\.gguf, b\.gguf"):
        resolve_model(str(tmp_path))


BAD = {
    "bomb": (lambda content: BOMB, f"promises {1 << 60} tensors"),
    "empty": (lambda content: b"", "is empty"),
    "cut": (lambda content: content[:-2000], "is cut or damaged"),
    "cut header": (lambda content: content[:700], "is cut"),
    "no GGUF": (lambda content: b"PK" + content, "is not a GGUF file"),
    "architecture": (
        lambda content: content.replace(b"llama", b"mamba"),
        "unsupported architecture mamba (supported: llama,",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_exit_code_1(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = BAD[name]
    file = tiny(tmp_path / "tiny.gguf")
    file.write_bytes(damage(file.read_bytes()))
    assert cli.main(["serve", str(file), "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
