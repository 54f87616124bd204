"""What the engine tells beside the tokens: log-probabilities and statistics."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM


def test_logprobs_come_one_per_token(make_engine, prompts) -> None:
    driver = make_engine()
    answer = driver.generate(prompts[0], constraint="7 8 9", params={"logprobs": 2})
    found = [p for output in answer.outputs for p in output.logprobs]
    assert [p.chosen.token_id for p in found] == answer.token_ids == [7, 8, 9]


@pytest.mark.parametrize("chunk", [256, 7])
def test_prompt_logprobs_are_those_of_the_whole_pass(
    make_engine, llama_dir, chunk, prompts
) -> None:
    prompt = prompts[2]
    with torch.no_grad():
        model = LlamaForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
        expected = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    driver = make_engine(max_num_batched_tokens=chunk, max_num_seqs=3)
    driver.generate(prompt)  # what is cached must not be used
    answer = driver.generate(prompt, params={"prompt_logprobs": 3})
    found = answer.outputs[0].prompt_logprobs
    assert answer.outputs[0].num_cached_tokens == 0
    assert all(output.prompt_logprobs is None for output in answer.outputs[1:])
    assert len(found) == len(prompt)
    assert found[0] is None
    for position, entry in enumerate(found[1:], start=1):
        logprobs = expected[position - 1]
        assert entry.chosen.token_id == prompt[position]
        assert entry.chosen.logprob == pytest.approx(logprobs[prompt[position]].item(), abs=1e-4)
        assert entry.chosen.rank == (logprobs > logprobs[prompt[position]]).sum().item() + 1
        assert [t.token_id for t in entry.top] == logprobs.topk(3).indices.tolist()
        assert [t.rank for t in entry.top] == [1, 2, 3]


def test_statistics_are_true(make_engine, prompts) -> None:
    driver = make_engine(max_num_seqs=2)
    for name in range(3):
        driver.add(str(name), prompts[name], params={"max_tokens": 4})
    driver.step()
    first = driver.stats[0]
    assert (first.num_running, first.num_waiting) == (2, 1)
    assert first.num_batched_tokens == len(prompts[0]) + len(prompts[1])
    assert first.prefix_cache_queries == first.num_batched_tokens
    assert first.kv_cache_usage == 3 / driver.engine.pool.num_blocks
    answers = driver.run()
    assert all(answer.outputs[0].queue_time >= 0 for answer in answers.values())
    assert answers["2"].outputs[0].queue_time > answers["0"].outputs[0].queue_time
    assert driver.stats[-1].num_running == 0
    computed = sum(stats.num_batched_tokens for stats in driver.stats)
    assert computed == sum(len(prompts[name]) + 3 for name in range(3))
