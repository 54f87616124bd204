"""The engine on a CUDA device: with graphs and without, overlapped and not, it answers alike, and
like the CPU.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = {"device": "cuda", "kv_cache_memory_bytes": 1 << 22}
VARIANTS = {
    "eager": {"enforce_eager": True, "async_scheduling": False},
    "graphs": {"async_scheduling": False},
    "overlap": {"enforce_eager": True},
    "both": {},
    "small graphs": {"max_cudagraph_capture_size": 3},
    "one by one": {"forced_tokens": False},
}


def prompt_of(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * length + seed)
    return [rng.randrange(3, 131) for _ in range(length)]


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_way_to_step_gives_the_same_tokens(make_engine, fields) -> None:
    """Greedy, under a grammar, ended by stop ids, with penalties and logprobs; all at once."""
    requests: dict[str, dict] = {}
    for number in range(24):
        request: dict = {"prompt": prompt_of(1 + 3 * number), "params": {"max_tokens": 3 + number}}
        if number % 4 == 1:
            request["constraint"] = " ".join(map(str, prompt_of(9, number)))
        if number % 4 == 2:
            request["params"] |= {"stop_token_ids": tuple(range(3, 20)), "frequency_penalty": 0.5}
        if number % 6 == 5:
            request["params"]["logprobs"] = 1
        requests[str(number)] = request
    alone = make_engine()
    expected = {name: alone.generate(**request) for name, request in requests.items()}
    driver = make_engine(**(CUDA | fields))
    for name, request in requests.items():
        driver.add(name, **request)
        driver.step()
    answers = driver.run()
    for name, answer in expected.items():
        assert answers[name].token_ids == answer.token_ids
        assert answers[name].finish_reason == answer.finish_reason
        for ours, theirs in zip(answers[name].outputs, answer.outputs, strict=False):
            if theirs.logprobs and ours.logprobs:
                assert ours.logprobs[0].chosen.logprob == pytest.approx(
                    theirs.logprobs[0].chosen.logprob, abs=1e-3
                )


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_seeded_tokens_are_the_same_in_any_company(make_engine, fields) -> None:
    params = {"temperature": 1.2, "top_p": 0.9, "seed": 5, "max_tokens": 20}
    alone = make_engine(**(CUDA | fields)).generate(prompt_of(9), params=params).token_ids
    driver = make_engine(**(CUDA | fields))
    for number in range(12):
        driver.add(str(number), prompt_of(3 + number), params={"max_tokens": 40})
    driver.add("seeded", prompt_of(9), params=params)
    assert driver.run()["seeded"].token_ids == alone


def test_nan_ends_its_own_request_and_no_other(make_engine) -> None:
    prompts = [prompt_of(length) for length in (5, 9, 20)]
    clean = [make_engine(**CUDA).generate(prompt).token_ids for prompt in prompts]
    driver = make_engine(**CUDA)
    used = {t for prompt in [*prompts, *clean] for t in prompt} | {0}
    poison = min(set(range(3, 131)) - used)
    driver.engine.runner.model.model.embed_tokens.weight.data[poison] = float("nan")
    driver.add("bad", [poison, *prompt_of(30)])
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt)
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert [answers[str(name)].token_ids for name in range(3)] == clean


def test_a_model_that_does_not_fit_says_which_flag_to_lower(make_engine) -> None:
    too_much = torch.cuda.get_device_properties(0).total_memory * 2
    fields = {"device": "cuda", "kv_cache_memory_bytes": too_much, "max_num_seqs": 1 << 16}
    fields |= {"max_num_batched_tokens": 1 << 16, "max_cudagraph_capture_size": 1}
    with pytest.raises(Exception, match="--") as caught:
        make_engine(**fields, block_size=1 << 16)
    assert "\n" not in str(caught.value)


def test_the_8b_shape_starts_and_answers(tmp_path: Path, make_engine) -> None:
    """Two layers of it: head size, grouping and vocabulary are what kernels depend on."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 131072,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    fields = {"model_dir": tmp_path, "load_format": "dummy", "block_size": 16, "dtype": "auto"}
    driver = make_engine(**fields, device="cuda", kv_cache_memory_bytes=1 << 30)
    for number in range(16):
        driver.add(str(number), prompt_of(40 * (number + 1)), params={"max_tokens": 12})
    answers = driver.run()
    assert all(len(answer.token_ids) == 12 for answer in answers.values())


def test_nothing_is_compiled_after_the_start(make_engine, monkeypatch) -> None:
    """A kernel that is compiled while serving holds up every request for a second."""
    driver = make_engine(**CUDA, max_num_seqs=16, max_num_batched_tokens=4096)
    compiled: list[str] = []

    def listen(*, src, **_rest) -> None:
        compiled.append(src.name)

    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.compilation, "listener", listen)
    limits = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05}
    for batch in (1, 2, 3, 5, 8, 16):
        for length in (1, 7, 30, 100):
            for number in range(batch):
                driver.add(
                    f"{batch} {length} {number}",
                    prompt_of(length, number),
                    params={"max_tokens": 9} | (limits if number % 2 else {}),
                    constraint=" ".join(map(str, prompt_of(9))) if number % 3 == 0 else None,
                )
            driver.run()
    assert compiled == []
