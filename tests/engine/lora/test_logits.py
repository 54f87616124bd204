"""Logits and tokens of adapters against `peft`, and against weights with the adapter merged in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from formgate.engine.adapter import AdapterSource
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.sequence import Sequence

# peft's use of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

RANKS = {"one": 1, "eight": 8, "sixteen": 16, "root": 8, "most": 64}
VARIANTS = {
    "one": {"modules": ("self_attn.q_proj", "self_attn.v_proj")},  # slices of fused layers
    "eight": {"lora_alpha": 32},
    "root": {"use_rslora": True, "modules": ("mlp.gate_proj", "mlp.down_proj")},
    "most": {
        "rank_pattern": {"layers.1.mlp.up_proj": 64},
        "alpha_pattern": {"layers.1.mlp.up_proj": 7, "k_proj": 11},
    },
}


@pytest.fixture
def adapters(make_adapter) -> dict[str, Path]:
    return {
        name: make_adapter(name, rank, **VARIANTS.get(name, {})) for name, rank in RANKS.items()
    }


def sources(adapters: dict[str, Path]) -> tuple[AdapterSource, ...]:
    return tuple(AdapterSource(name, path) for name, path in adapters.items())


def lora_engine(make_engine, adapters, **fields):
    options = {"enable_lora": True, "max_lora_rank": 64, "max_loras": 8}
    return make_engine(**(options | {"adapters": sources(adapters)} | fields))


def merged(llama_dir: Path, folder: Path | None) -> LlamaForCausalLM:
    """transformers' model with B @ A added to its weights, in float64 arithmetic."""
    model = LlamaForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    if folder is None:
        return model
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    parameters = dict(model.named_parameters())
    for name, a in tensors.items():
        if ".lora_A." not in name:
            continue
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = tensors[name.replace("lora_A", "lora_B")]
        alpha, rank = config["lora_alpha"], a.shape[0]
        for pattern, value in config.get("alpha_pattern", {}).items():
            if module.endswith(pattern):
                alpha = value
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        weight = parameters[f"{module}.weight"].data
        weight += (scale * (b.double() @ a.double())).float()
    return model


def by_peft(llama_dir: Path, folder: Path | None) -> torch.nn.Module:
    model = LlamaForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    if folder is None:
        return model
    peft = pytest.importorskip("peft")
    return peft.PeftModel.from_pretrained(model, folder).eval()


def logits_of(engine, rows: list[tuple[list[int], int]]) -> torch.Tensor:
    """Logits after each prompt, computed in one step with the adapter of each one's slot."""
    sequences = []
    for number, (prompt, slot) in enumerate(rows):
        sequence = Sequence(str(number), prompt, len(prompt), SamplingParams())
        sequence.num_scheduled_tokens = len(prompt)
        sequence.adapter_slot = slot
        blocks = -(-len(prompt) // engine.config.block_size)
        sequence.block_table = [number * 16 + block for block in range(blocks)]
        sequences.append(sequence)
    step = engine.packer.pack(sequences, engine.runner.next_numbers())
    logits = engine.runner.forward(step).logits
    assert logits is not None
    return logits.clone()


def put(engine, name: str, slot: int) -> None:
    """Fill a slot as the scheduler would."""
    adapter = engine.adapters.find(name)
    engine.adapters._library.fill(adapter, slot)


def expected_logits(model, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits[0, -1]


@pytest.mark.parametrize("oracle", [merged, by_peft])
@pytest.mark.parametrize("static", [0, 16])
def test_a_mixed_batch(make_engine, adapters, llama_dir, prompt_of, oracle, static) -> None:
    engine = lora_engine(make_engine, adapters, max_cudagraph_capture_size=static).engine
    names = [None, *adapters, None]
    slots = {None: -1} | {name: 7 - number for number, name in enumerate(adapters)}
    for name in adapters:
        put(engine, name, slots[name])
    models = {name: oracle(llama_dir, adapters.get(name)) for name in slots}
    rows, expected = [], []
    for number, name in enumerate([*names, "most", "one", None]):
        prompt = prompt_of((5, 1, 23, 9, 17)[number % 5], number)
        rows.append((prompt, slots[name]))
        expected.append(expected_logits(models[name], prompt))
    wanted = torch.stack(expected)
    torch.testing.assert_close(logits_of(engine, rows), wanted, atol=1e-4, rtol=1e-4)
    for row, one in zip(rows, expected, strict=True):  # alone
        found = logits_of(engine, [row])[0]
        torch.testing.assert_close(found, one, atol=1e-4, rtol=1e-4)
    base = expected_logits(models[None], rows[1][0])
    assert (base - expected[1]).abs().max() > 0.1  # the adapter does change something


def test_tokens_of_mixed_requests(make_engine, adapters, llama_dir, prompt_of) -> None:
    """Every request of a full server is answered as by a model with its adapter alone."""
    driver = lora_engine(make_engine, adapters)
    wanted = {}
    for name in [None, *adapters]:
        model = merged(llama_dir, adapters.get(name))
        for seed in range(3):
            prompt = prompt_of(6 + 5 * seed, seed)
            key = f"{name}-{seed}"
            tokens = list(prompt)
            for _ in range(8):
                tokens.append(int(expected_logits(model, tokens).argmax()))
            wanted[key] = tokens[len(prompt) :]
            driver.add(key, prompt, lora_name=name)
    answers = driver.run()
    assert {key: answers[key].token_ids for key in wanted} == wanted
    assert len({tuple(tokens) for tokens in wanted.values()}) > len(adapters)


def test_without_adapters_nothing_is_added(make_engine, adapters, prompts) -> None:
    """A batch without adapters has the very logits of a server that serves none."""
    rows = [(prompt, -1) for prompt in prompts]
    plain = logits_of(make_engine().engine, rows)
    assert torch.equal(logits_of(lora_engine(make_engine, adapters).engine, rows), plain)


def test_a_trained_adapter(make_engine, llama_dir, tmp_path, prompt_of) -> None:
    """What `peft` has trained and saved, read back by it and by the engine."""
    peft = pytest.importorskip("peft")
    base = LlamaForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    batch = torch.tensor([prompt_of(12, seed) for seed in range(4)])
    for _ in range(5):
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path / "trained")
    engine = lora_engine(make_engine, {"trained": tmp_path / "trained"}).engine
    put(engine, "trained", 3)
    prompt = prompt_of(9)
    found, wanted = logits_of(engine, [(prompt, 3)])[0], expected_logits(model, prompt)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        assert (expected_logits(model, prompt) - wanted).abs().max() > 0.1
