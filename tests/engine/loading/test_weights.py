"""The checkpoint reader: what it accepts, and the one line it says about everything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from formgate.engine.loading import weights
from formgate.engine.loading.weights import (
    WeightsError,
    dummy_weights,
    load_model_config,
    load_weights,
    resolve_dtype,
)
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.registry import build_model
from formgate.engine.models.spec import UnsupportedModelError

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
QUERY = "model.layers.1.self_attn.q_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def save(folder: Path, *, max_shard_size: str = "1GB", tied: bool = False) -> Path:
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "single": save(root / "single"),
        "sharded": save(root / "sharded", max_shard_size="20KB"),
    }


@pytest.fixture
def single(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["single"], tmp_path / "single"))


@pytest.fixture
def sharded(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["sharded"], tmp_path / "sharded"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> CausalLM:
    model = build_model(load_model_config(folder), dtype, CPU)
    load_weights(model, folder, progress=lambda stage, done, total: None)
    return model


def error_of(folder: Path) -> str:
    with pytest.raises(WeightsError) as error:
        load(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def edit_tensors(
    folder: Path, *, drop: tuple[str, ...] = (), **add: torch.Tensor
) -> dict[str, torch.Tensor]:
    path = folder / "model.safetensors"
    tensors = {name: t for name, t in load_file(path).items() if name not in drop} | add
    save_file(tensors, path)
    return tensors


def test_shards_and_a_single_file_give_the_same_model(single: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(single)
    model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 2
    first, second = load(single).state_dict(), load(tmp_path / "split").state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_values_are_converted_to_the_models_dtype(single: Path) -> None:
    tensors = load_file(single / "model.safetensors")
    model = load(single, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    expected = tensors["model.norm.weight"].bfloat16()
    assert torch.equal(model.model.norm.weight.data, expected)


def test_progress_counts_to_its_total(single: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    model = build_model(load_model_config(single), torch.float32, CPU)
    load_weights(model, single, progress=lambda *step: seen.append(step))
    total = len(load_file(single / "model.safetensors"))
    assert [done for _, done, _ in seen] == list(range(total + 1))
    assert {(stage, of) for stage, _, of in seen} == {("loading weights", total)}


def test_a_tied_head_in_the_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = save(tmp_path / "tied", tied=True)
    edit_tensors(folder, **{"lm_head.weight": torch.full((61, 32), 7.0)})
    model = load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.abs().max() < 7.0


def test_stored_rotary_frequencies_are_passed_over(single: Path) -> None:
    edit_tensors(single, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load(single)


def test_a_consolidated_copy_is_passed_over(single: Path) -> None:
    (single / "model.safetensors").rename(single / "weights.safetensors")
    save_file({"tok_embeddings.weight": torch.ones(2)}, single / "consolidated.safetensors")
    load(single)


def test_missing_tensors_are_named_as_the_checkpoint_names_them(single: Path) -> None:
    edit_tensors(single, drop=(QUERY, UP))
    message = error_of(single)
    assert QUERY in message
    assert UP in message
    assert "k_proj" not in message


def test_a_long_list_of_missing_tensors_is_cut(single: Path) -> None:
    names = tuple(name for name in load_file(single / "model.safetensors") if ".layers." in name)
    edit_tensors(single, drop=names)
    assert f"and {len(names) - 5} more" in error_of(single)


def test_unexpected_tensors_are_named(single: Path) -> None:
    edit_tensors(single, **{"model.layers.0.mlp.router.weight": torch.ones(3)})
    assert "model.layers.0.mlp.router.weight" in error_of(single)


def test_a_tensor_of_a_layer_too_many_is_unexpected(single: Path) -> None:
    extra = QUERY.replace("layers.1", "layers.2")
    edit_tensors(single, **{extra: torch.ones(32, 32)})
    assert extra in error_of(single)


def test_a_tensor_without_a_module_is_unexpected(single: Path) -> None:
    edit_tensors(single, scale=torch.ones(1))
    assert "scale" in error_of(single)


def test_a_wrong_shape_names_tensor_and_file(single: Path) -> None:
    edit_tensors(single, drop=(UP,), **{UP: torch.ones(47, 32)})
    message = error_of(single)
    assert f"model.safetensors: {UP} has shape [47, 32], the config asks for [48, 32]" in message


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        load_model_config(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a folder"):
        load_model_config(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[]", '"llama"', ""])
def test_a_broken_config(single: Path, text: str) -> None:
    (single / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_model_config(single)


def test_a_config_with_a_wrong_type(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    with pytest.raises(WeightsError, match="hidden_size") as error:
        load_model_config(single)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "hal9000", "architectures": ["Hal9000ForCausalLM"]},
        {"architectures": ["Hal9000ForCausalLM"]},
        {},
    ],
)
def test_an_unknown_model_type_names_what_is_supported(
    tmp_path: Path, config: dict[str, object]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM") as error:
        load_model_config(tmp_path)
    assert "\n" not in str(error.value)


def test_no_weights(single: Path) -> None:
    (single / "model.safetensors").unlink()
    assert "holds no .safetensors file" in error_of(single)


def test_only_pickled_weights(single: Path) -> None:
    (single / "model.safetensors").unlink()
    (single / "pytorch_model.bin").write_bytes(b"never read")
    assert "convert them to safetensors" in error_of(single)


def test_a_shard_is_missing(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    message = error_of(sharded)
    assert gone.name in message
    assert "index.json" in message


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": {}}'])
def test_a_broken_index(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    assert "index.json" in error_of(sharded)


def test_an_index_cannot_point_out_of_its_folder(sharded: Path, single: Path) -> None:
    outside = {"weight_map": {"x": str(single / "model.safetensors")}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(outside))
    assert "lacks model.safetensors" in error_of(sharded)


@pytest.mark.parametrize("kept", [0, 5, 100, 20_000])
def test_a_truncated_file(single: Path, kept: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    message = error_of(single)
    assert "damaged or truncated" in message
    assert "model.safetensors" in message


def test_a_file_that_is_no_safetensors(single: Path) -> None:
    (single / "model.safetensors").write_text("<html>404</html>" * 100)
    assert "damaged or truncated" in error_of(single)


def test_dummy_weights_depend_on_the_seed_alone(single: Path) -> None:
    def dummy(seed: int) -> dict[str, torch.Tensor]:
        model = build_model(load_model_config(single), torch.bfloat16, CPU)
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
        dummy_weights(model, seed)
        return dict(model.state_dict())

    first, again, other = dummy(0), dummy(0), dummy(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert all(tensor.isfinite().all() and tensor.any() for tensor in first.values())


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_on_a_cpu_is_the_one_it_computes_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(weights, "cpu_has_fast_bfloat16", lambda: fast)
    assert resolve_dtype("auto", LlamaConfig(dtype="bfloat16"), CPU) is dtype


@pytest.mark.parametrize(
    ("stored", "has_bf16", "dtype"),
    [
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.float16),
        ("float16", True, torch.float16),
        (torch.float32, True, torch.float32),
        (None, True, torch.bfloat16),
    ],
)
def test_auto_dtype_on_cuda_is_the_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
    stored: str | torch.dtype | None,
    has_bf16: bool,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert resolve_dtype("auto", LlamaConfig(dtype=stored), CUDA) is dtype


def test_a_named_dtype_wins() -> None:
    assert resolve_dtype("float16", LlamaConfig(dtype="bfloat16"), CPU) is torch.float16


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_fast_bfloat16_is_read_from_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert weights.cpu_has_fast_bfloat16() is fast
