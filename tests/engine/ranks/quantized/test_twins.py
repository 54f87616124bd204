"""A quantized checkpoint answers what its dequantized twin does, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.quantized.config import Quantization
from formgate.engine.layers.quantized.grouped import GroupedMethod
from formgate.engine.layers.quantized.warm_up import linear_tasks
from formgate.engine.loading.weights import WeightsError

QUERY = "model.layers.0.self_attn.q_proj"


def test_one_rank_and_two(
    scheme, save_twins, tmp_path: Path, threads, engine_of, answers, same
) -> None:
    quantized, twin = save_twins(scheme, tmp_path)
    expected = answers(engine_of(twin))
    assert same(answers(engine_of(quantized)), expected)
    assert same(answers(engine_of(quantized, tensor_parallel_size=2)), expected)


def test_packed_weights(
    grouped_scheme, save_twins, tmp_path: Path, threads, engine_of, answers, same, monkeypatch
) -> None:
    """Weights stay packed, as on a GPU."""
    monkeypatch.setattr(Quantization, "_method", lambda self, stored: GroupedMethod(stored))
    quantized, twin = save_twins(grouped_scheme, tmp_path)
    expected = answers(engine_of(twin))
    assert same(answers(engine_of(quantized)), expected)
    assert same(answers(engine_of(quantized, tensor_parallel_size=2)), expected)
    tasks = list(linear_tasks(threads[0].model, torch.bfloat16, torch.device("cpu")))
    assert len(tasks) >= 5
    for task in tasks:
        task()


def test_dummy_weights(scheme, save_twins, tmp_path: Path, engine_of, answers) -> None:
    quantized, _ = save_twins(scheme, tmp_path)
    (quantized / "model.safetensors").unlink()
    found = answers(engine_of(quantized, load_format="dummy"))
    assert all(len(tokens) == 10 for tokens, _ in found)


def test_modules_that_are_left(
    schemes, save_twins, tmp_path: Path, engine_of, answers, same
) -> None:
    mlp, output = "layers.1.mlp", "layers.0.self_attn.o_proj"
    for name, fields in (
        ("awq", {"modules_to_not_convert": [mlp, output]}),
        ("gptq", {"dynamic": {rf"-:.*{mlp}": {}, rf"-:.*{output}": {}}}),
        ("packed", {"ignore": [rf"re:.*{mlp}\..*", f"model.{output}", "lm_head"]}),
    ):
        scheme = schemes[name]._replace(config=schemes[name].config | fields)
        quantized, twin = save_twins(scheme, tmp_path / name, (mlp, output))
        insisted = scheme.config["quant_method"]
        found = answers(engine_of(quantized, quantization=insisted))
        assert same(found, answers(engine_of(twin)))


def set_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= fields
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("awq", {"quant_method": "vptq"}, r"'vptq' is not supported \(supported: awq, gptq"),
        ("awq", {"version": "gemv"}, "version 'gemv'"),
        ("awq", {"bits": 3}, "bits 3"),
        ("awq", {"group_size": 48}, "group_size 48 does not divide a layer's 64 inputs"),
        ("awq", {"group_size": "many"}, "quantization_config is malformed"),
        ("awq", {"modules_to_not_convert": ["q_proj"]}, "q_proj, .*k_proj, .*different formats"),
        ("gptq", {"bits": 2}, "GPTQ with bits 2"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}, r"dynamic rule '\+:\.\*'"),
        ("packed", {"config_groups": {"g": {}}}, "quantization_config is malformed"),
        (
            "packed",
            {"config_groups": {"g": {"targets": ["Linear"], "weights": {"type": "nvfp4"}}}},
            "g has weights of type 'nvfp4'.* is not supported",
        ),
    ],
)
def test_a_bad_config(
    schemes, save_twins, tmp_path: Path, engine_of, name, fields, message
) -> None:
    quantized, _ = save_twins(schemes[name], tmp_path)
    set_config(quantized, **fields)
    with pytest.raises(EngineStartError, match=message) as caught:
        engine_of(quantized)
    assert "\n" not in str(caught.value)


def test_fp8_at_load(
    schemes, save_twins, tmp_path: Path, threads, engine_of, answers, same
) -> None:
    """`-q fp8` stores what a checkpoint with a scale for each output holds."""
    quantized, _ = save_twins(schemes["float-quantized, channel"], tmp_path)
    _, plain = save_twins(schemes["awq"], tmp_path / "plain", ("_proj",))
    expected = answers(engine_of(quantized))
    assert same(answers(engine_of(plain, quantization="fp8")), expected)
    # Each rank scales its part of a row of the matrix, more finely.
    found = answers(engine_of(plain, quantization="fp8", tensor_parallel_size=2))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[1][0] == pytest.approx(theirs[1][0], abs=0.5)


def test_another_scheme_than_the_files(schemes, save_twins, tmp_path: Path, engine_of) -> None:
    quantized, twin = save_twins(schemes["awq"], tmp_path)
    with pytest.raises(EngineStartError, match="--quantization magic is not supported"):
        engine_of(quantized, quantization="magic")
    with pytest.raises(EngineStartError, match=r"config\.json has no quantization_config"):
        engine_of(twin, quantization="awq")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (lambda index: index.flip(0), "differ in their activation"),
        (lambda index: index + 1, "g_idx"),
    ],
)
def test_a_bad_activation_order(
    schemes, save_twins, tmp_path: Path, engine_of, index, message
) -> None:
    quantized, _ = save_twins(schemes["gptq, desc_act"], tmp_path)
    tensors = load_file(quantized / "model.safetensors")
    for part in ("q", "k", "v") if message == "g_idx" else ("q",):
        name = f"model.layers.0.self_attn.{part}_proj.g_idx"
        tensors[name] = index(tensors[name])
    save_file(tensors, quantized / "model.safetensors")
    with pytest.raises(EngineStartError, match=message):
        engine_of(quantized)


def test_bad_files(schemes, save_twins, tmp_path: Path, engine_of) -> None:
    quantized, _ = save_twins(schemes["awq"], tmp_path)
    path = quantized / "model.safetensors"
    tensors = load_file(path)
    scales = tensors.pop(f"{QUERY}.scales")
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=rf"lacks {QUERY}\.scales$"):
        engine_of(quantized)
    save_file(tensors | {f"{QUERY}.scales": scales[:, 1:].contiguous()}, path)
    with pytest.raises(WeightsError, match=r"scales has shape \[2, 63\]"):
        engine_of(quantized)
