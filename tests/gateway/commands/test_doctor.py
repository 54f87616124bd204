"""`formgate doctor`: what follows from a machine's facts and a model's config."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from formgate import embedded
from formgate.engine.config import EngineConfig
from formgate.gateway import cli
from formgate.gateway.commands.doctor import disk_finding
from formgate.gateway.commands.findings import GIB, Finding
from formgate.gateway.commands.machine_checks import Gpu, GpuFacts, gpu_findings
from formgate.gateway.commands.memory_need import (
    MemoryNeed,
    cpu_memory_finding,
    gpu_memory_finding,
    memory_need,
    need_or_finding,
)

MISTRAL_7B = {  # the config of Mistral-7B-Instruct-v0.3
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "vocab_size": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
H200 = Gpu("NVIDIA H200", 138 * GIB, 140 * GIB)
CPU = torch.device("cpu")


@pytest.fixture
def mistral(tmp_path: Path) -> EngineConfig:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL_7B))
    return EngineConfig(model_dir=tmp_path, dtype="bfloat16")


def states(facts: GpuFacts, *, device: str = "auto", ranks: int = 1) -> dict[str, str]:
    return {each.subject: each.state for each in gpu_findings(facts, device=device, ranks=ranks)}


def test_gpus_and_what_keeps_torch_from_them() -> None:
    assert states(GpuFacts(None, "13.0")) == {"GPU": "note"}
    assert states(GpuFacts(None, "13.0"), device="cuda") == {"GPU": "wrong"}
    assert states(GpuFacts("580.1", None))["GPU"] == "note"
    too_old = GpuFacts("470.1", "13.0", reason="The NVIDIA driver on your system is too old")
    (_, finding) = gpu_findings(too_old, device="cuda", ranks=1)
    assert (finding.state, finding.said) == ("wrong", too_old.reason)
    assert "CUDA 13.0" in finding.remedy
    one = GpuFacts("580.1", "13.0", (H200,))
    assert set(states(one).values()) == {"ok"}
    assert states(one, ranks=2)["GPUs"] == "wrong"
    assert states(replace(one, compiler=False))["C compiler"] == "wrong"
    assert states(one, device="cpu") == {"GPU": "ok"}


def test_a_models_memory_by_its_config(mistral: EngineConfig) -> None:
    need = memory_need(mistral.model_dir, mistral, CPU)
    assert need.num_parameters == 7_248_023_552  # as its model card has it
    assert need.weights == 2 * need.num_parameters
    assert need.kv_per_token == 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, size, bytes
    assert need.max_model_len == 32768
    halves = memory_need(mistral.model_dir, replace(mistral, tensor_parallel_size=2), CPU)
    assert halves.kv_per_token == need.kv_per_token // 2
    norms = 65 * 4096  # which each rank has whole
    assert 2 * halves.num_parameters == need.num_parameters + norms


def test_quantized_weights_take_less(mistral: EngineConfig) -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    config = MISTRAL_7B | {"quantization_config": awq | {"zero_point": True}}
    (mistral.model_dir / "config.json").write_text(json.dumps(config))
    half = replace(mistral, dtype="float16")
    need = memory_need(mistral.model_dir, half, torch.device("cuda"))
    assert 3.8e9 < need.weights < 4.3e9  # the checkpoint's files have 4.15 GB


def test_the_embedded_model_is_its_file() -> None:
    folder = embedded.path()
    need = memory_need(folder, EngineConfig(model_dir=folder, dtype="bfloat16"), CPU)
    file = (folder / "model.safetensors").stat().st_size
    assert 0 < file - need.weights < 20_000  # the file's header


@pytest.mark.parametrize(
    ("total", "free", "flags", "state", "says"),
    [
        (24 * GIB, 23 * GIB, {}, "ok", "32768 tokens"),
        (16 * GIB, 15 * GIB, {}, "note", "lowers the context"),
        (16 * GIB, 15 * GIB, {"max_model_len": 32768}, "wrong", "--max-model-len"),
        (8 * GIB, 8 * GIB, {}, "wrong", "-tp 2"),
        (24 * GIB, 4 * GIB, {}, "wrong", "stop other programs on the GPU (20.0 GiB are taken)"),
    ],
)
def test_whether_it_fits_a_gpu(
    mistral: EngineConfig, total: int, free: int, flags: dict[str, int], state: str, says: str
) -> None:
    config = replace(mistral, **flags)
    need = memory_need(config.model_dir, config, CPU)
    finding = gpu_memory_finding(need, config, free=free, total=total)
    assert finding.state == state
    assert says in finding.said + finding.remedy


def test_whether_it_fits_main_memory(mistral: EngineConfig) -> None:
    need = memory_need(mistral.model_dir, mistral, CPU)
    assert cpu_memory_finding(need, mistral, 8 * GIB).state == "wrong"
    assert cpu_memory_finding(need, mistral, 16 * GIB).state == "note"  # 1 GiB of cache
    large = replace(mistral, kv_cache_memory_bytes=4 * GIB)
    assert cpu_memory_finding(need, large, 32 * GIB).state == "ok"
    assert cpu_memory_finding(need, large, 16 * GIB).state == "wrong"


def test_a_model_that_is_not_supported(mistral: EngineConfig) -> None:
    (mistral.model_dir / "config.json").write_text('{"architectures": ["Mamba9ForCausalLM"]}')
    finding = need_or_finding(mistral.model_dir, mistral, CPU)
    assert isinstance(finding, Finding)
    assert finding.state == "wrong"
    assert "Mamba9ForCausalLM" in finding.said


def test_room_for_a_download(tmp_path: Path) -> None:
    need = MemoryNeed(1 << 20, 1, 1, False, 1)
    cache = tmp_path / "not" / "yet"
    assert disk_finding(tmp_path, cache, need, ranks=1).state == "ok"
    huge = replace(need, weights=1 << 60)
    assert disk_finding(tmp_path, cache, huge, ranks=1).state == "wrong"
    assert "have been downloaded" in disk_finding(embedded.path(), cache, huge, ranks=1).said


def test_the_command_names_a_port_in_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ["--host", "127.0.0.1", "--port", str(taken.getsockname()[1]), "--device", "cpu"]
        assert cli.main(["doctor", *flags, "--json"]) == 1
    found = {each["subject"]: each for each in json.loads(capsys.readouterr().out)}
    assert {name for name, each in found.items() if each["state"] == "wrong"} == {"address"}
    assert "address already in use" in found["address"]["said"]
    assert found["memory"]["state"] == "ok"
    assert cli.main(["doctor", *flags]) == 0
    assert "Nothing is wrong." in capsys.readouterr().out


def test_it_takes_the_flags_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--max-modle-len", "8"])
    assert stop.value.code == 2
    assert "did you mean --max-model-len?" in capsys.readouterr().err
