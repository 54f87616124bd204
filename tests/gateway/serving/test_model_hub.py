"""From a model's name to its folder, and what is said about a folder or hub that will not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from formgate.gateway.serving import model_hub
from formgate.gateway.serving.model_hub import ModelError, check_model_folder, resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_a_whole_folder_passes(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder
    check_model_folder(folder, folder, weights=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    expected = "no weights" if name.endswith("safetensors") else f"no {name}"
    with pytest.raises(ModelError, match=expected):
        check_model_folder(folder, folder, weights=True)


def test_dummy_weights_need_no_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    check_model_folder(folder, folder, weights=False)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"has no model-2\.safetensors"):
        check_model_folder(folder, folder, weights=True)


def test_pickled_weights_are_refused_by_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        check_model_folder(folder, folder, weights=True)


def test_a_config_that_is_no_json_is_said(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not a JSON object"):
        check_model_folder(folder, folder, weights=True)


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "nowhere.gguf"]
)
def test_a_path_that_is_no_folder_never_reaches_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_hub, "snapshot_download", None)
    with pytest.raises(ModelError, match="is neither a folder nor a GGUF file"):
        resolve_model(name)


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(model_hub, "snapshot_download", download)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return asked


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("x", response=response(403)), "gated: ask for access .* --hf-token"),
        (RepositoryNotFoundError("x", response=response(404)), "neither a folder here nor"),
        (RevisionNotFoundError("x", response=response(404)), "no revision v9"),
        (LocalEntryNotFoundError("x"), "cannot be reached"),
        (HfHubHTTPError("x", response=response(401)), "does not know this token"),
        (HfHubHTTPError("x", response=response(500)), "answered with status 500"),
        (OSError("No space left on device\nmore"), "No space left on device"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_answers(monkeypatch, error)
    with pytest.raises(ModelError, match=message) as raised:
        resolve_model("owner/model", revision="v9")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_token_comes_from_the_flag_or_the_environment(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub_answers(monkeypatch, tmp_path)
    monkeypatch.setenv(variable, "from-environment")
    assert resolve_model("owner/model") == tmp_path
    resolve_model("owner/model", token="from-flag")
    assert [request["token"] for request in asked] == ["from-environment", "from-flag"]
    assert "*.safetensors" in asked[0]["allow_patterns"]
    assert not any("bin" in pattern for pattern in asked[0]["allow_patterns"])
