"""Folders that hold no adapter of the model: each is refused in one line that names what is wrong,
at the start and while others run.
"""

from __future__ import annotations

import json
import math
import pickle
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from formgate.engine.adapter import AdapterError, AdapterSource
from formgate.engine.loading.weights import load_model_config
from formgate.engine.lora.peft_config import Pattern
from formgate.engine.lora.peft_folder import PeftReader
from formgate.engine.lora.targets import Targets
from formgate.engine.messages import LoadAdapter
from formgate.engine.models.registry import build_model

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def weights(change):
    def apply(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


def config(**fields):
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return apply


def text(words: str):
    return lambda folder: (folder / "adapter_config.json").write_text(words)


def only_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


def put(name: str, *shape: int, dtype=torch.float32):
    return weights(lambda tensors: tensors.update({name: torch.zeros(shape, dtype=dtype)}))


def long_header(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes((20 << 20).to_bytes(8, "little") + b"{" + b" " * ((20 << 20) - 2) + b"}")


def fill(value: float, dtype=torch.float32):
    name = f"{Q}.lora_B.weight"
    return weights(
        lambda tensors: tensors.update({name: torch.full(tensors[name].shape, value, dtype=dtype)})
    )


BAD = {
    "a long header": (long_header, "its header has 20971520 bytes"),
    "nan": (fill(math.nan), "self_attn.q_proj.lora_B.weight, scaled, holds numbers that float32"),
    "infinity": (fill(-math.inf), "does not: NaN or infinity"),
    "too large when scaled": (
        lambda folder: (fill(3e38)(folder), config(lora_alpha=1e6)(folder)),
        "lora_B.weight, scaled, holds numbers that float32 does not",
    ),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "holds no adapter_model.safetensors",
    ),
    "a pickle": (only_pickle, "only as adapter_model.bin, a pickle"),
    "damaged": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 40),
        "adapter_model.safetensors is damaged",
    ),
    "no JSON": (text("{"), "adapter_config.json is no JSON"),
    "deep JSON": (text("[" * 100_000), "adapter_config.json is no JSON"),
    "a list": (text("[]"), "holds no JSON object"),
    "large": (text(" " * (1 << 20) + "{}"), "is larger than"),
    "another method": (config(peft_type="IA3"), 'peft_type: "IA3" is not supported'),
    "DoRA": (config(use_dora=True), "use_dora: DoRA is not supported"),
    "modules_to_save": (config(modules_to_save=["lm_head"]), "modules_to_save: "),
    "biases": (config(bias="all"), 'bias: "all" is not supported'),
    "lora_bias": (config(lora_bias=True), "lora_bias: "),
    "PiSSA": (config(init_lora_weights="pissa_niter_4"), "init_lora_weights: "),
    "replicated layers": (config(layer_replication=[[0, 2]]), "layer_replication: "),
    "parameters": (config(target_parameters=["experts.w"]), "target_parameters: "),
    "rank": (config(r=99), "the rank 99 of model.layers.0.mlp.down_proj is more than"),
    "no rank": (config(r="8"), 'r: "8" is no rank'),
    "rank 0": (config(r=0), "r: 0 is no rank"),
    "alpha": (config(lora_alpha=None), "lora_alpha: null is no number"),
    "large alpha": (text('{"peft_type": "LORA", "r": 4, "lora_alpha": Infinity}'), "lora_alpha: "),
    "another rank": (config(r=5), "has shape [4, 48], the model and the rank ask for [5, 48]"),
    "a pattern": (config(rank_pattern={"q_.*": 4}), 'rank_pattern: "q_.*" is a regular expression'),
    "a pattern's rank": (config(rank_pattern={"q_proj": 1.5}), "1.5 of"),
    "a pattern's alpha": (config(alpha_pattern={"q_proj": "1"}), "alpha_pattern: "),
    "patterns": (config(alpha_pattern=[1]), "alpha_pattern: [1] is no object"),
    "shape": (put(f"{Q}.lora_B.weight", 31, 4), "has shape [31, 4]"),
    "another base": (put(f"{Q}.lora_A.weight", 4, 64), "ask for [4, 32]"),
    "half a pair": (
        weights(lambda tensors: tensors.pop(f"{Q}.lora_B.weight")),
        f"lacks {Q}.lora_B.weight",
    ),
    "numbers": (put(f"{Q}.lora_A.weight", 4, 32, dtype=torch.int32), "holds I32, no floats"),
    "unknown": (put(f"{Q}.extra.lora_A.weight", 4, 32), "q_proj.extra: the model has no such"),
    "a layer too many": (
        put("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", 4, 32),
        "model.layers.2.self_attn.q_proj: the model has no such layer",
    ),
    "the head": (
        put("base_model.model.lm_head.lora_A.weight", 4, 32),
        "lm_head: adapters of the head and the embedding are not supported",
    ),
    "the whole head": (put("base_model.model.lm_head.weight", 131, 32), "is no matrix of LoRA"),
    "an embedding": (
        put("base_model.model.model.embed_tokens.lora_embedding_A", 4, 131),
        "embed_tokens.lora_embedding_A is no matrix of LoRA",
    ),
    "a magnitude": (put(f"{Q}.lora_magnitude_vector", 32), "lora_magnitude_vector is no matrix"),
    "experts": (
        put("base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight", 4, 32),
        "adapters of experts are not supported",
    ),
    "twice": (put("model.layers.0.self_attn.q_proj.lora_A.weight", 4, 99), "has shape [4, 99]"),
    "nothing": (weights(lambda tensors: tensors.clear()), "holds no matrix"),
}


@pytest.fixture(scope="module")
def reader(llama_dir) -> PeftReader:
    config = load_model_config(llama_dir)
    model = build_model(config, torch.float32, torch.device("cpu"))
    return PeftReader(Targets(model), 16, torch.float32, pinned=False)


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(reader, make_adapter, spoil, message) -> None:
    folder = make_adapter("x", 4)
    reader.read(folder)
    spoil(folder)
    with pytest.raises(AdapterError) as refused:
        reader.read(folder)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_many_patterns_cost_nothing() -> None:
    """The first listed name decides, however many there are and wherever it stands."""
    listed = {f"m{number}": 1.0 for number in range(50_000)} | {"x.q": 2.0, "q": 3.0, "a.x.q": 4.0}
    pattern = Pattern(listed)
    assert [pattern.of("a.x.q", 9.0) for _ in range(50_000)] == [2.0] * 50_000
    assert pattern.of("b.q", 9.0) == 3.0
    assert pattern.of("q", 9.0) == 3.0
    assert pattern.of("aq", 9.0) == 9.0
    assert pattern.of("m7.weight", 9.0) == 9.0


def test_a_path_that_is_no_folder(reader, tmp_path) -> None:
    with pytest.raises(AdapterError, match="nowhere is not a folder"):
        reader.read(tmp_path / "nowhere")


def test_a_bad_adapter_at_start(make_engine, make_adapter) -> None:
    source = AdapterSource("sql", make_adapter("x", 32))
    with pytest.raises(AdapterError, match=r"--lora-modules: sql: .* more than --max-lora-rank 16"):
        make_engine(enable_lora=True, adapters=(source,))


def test_a_bad_adapter_disturbs_nobody(make_engine, make_adapter, prompt_of) -> None:
    driver = make_engine(
        enable_lora=True, adapters=(AdapterSource("good", make_adapter("good", 4)),)
    )
    expected = driver.generate(prompt_of(9), lora_name="good").token_ids
    bad = make_adapter("bad", 4)
    only_pickle(bad)
    driver.add("running", prompt_of(9), lora_name="good")
    driver.step()
    for name in ("good", "bad"):
        driver.engine.adapters.load(LoadAdapter(name, name, str(bad), replace=True))
    ends: dict[str, str | None] = {}
    deadline = time.monotonic() + 60
    while driver.engine.has_work and time.monotonic() < deadline:
        driver.step()
        ends |= {one.command_id: one.error for one in driver.engine.adapters.take_changes()}
    assert set(ends) == {"good", "bad"}
    assert all("a pickle" in str(error) for error in ends.values())
    assert driver.answers["running"].token_ids == expected
    assert driver.generate(prompt_of(9), lora_name="good").token_ids == expected
    assert driver.engine.adapters.find("bad") is None
