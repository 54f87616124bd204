"""Several ranks answer as one does: prefix hits, preemption, chunks, constraints, logprobs,
penalties and aborted requests, all at once, with steps that overlap and batches of static shapes.
"""

from __future__ import annotations

import pytest
import torch

WAYS: dict[str, tuple[int, dict]] = {
    "2, plain": (2, {}),
    "2, both": (2, {"async_scheduling": True, "max_cudagraph_capture_size": 8}),
    "4, overlap": (4, {"async_scheduling": True}),
    "4, static shapes": (4, {"max_cudagraph_capture_size": 8}),
}
# Chunks of 16 tokens, and too few blocks for all. A rank has one of two KV heads, so that a block
# takes half of its bytes.
TIGHT = {"max_num_batched_tokens": 16, "max_num_seqs": 8}
BLOCKS = 20


def greedy(requests: dict[str, dict]) -> dict[str, dict]:
    """The requests without chance: sums over ranks round otherwise, and so may a draw."""
    for request in requests.values():
        request["params"] = {
            name: value
            for name, value in request["params"].items()
            if name not in ("temperature", "seed")
        }
    return requests


@pytest.mark.parametrize(("size", "fields"), WAYS.values(), ids=WAYS.keys())
def test_everything_at_once(threads, make_engine, requests_of, size, fields) -> None:
    requests = greedy(requests_of(5, 24))
    aborted = [name for number, name in enumerate(requests) if number % 7 == 3]
    one = make_engine(**TIGHT, kv_blocks=BLOCKS)
    many = make_engine(**TIGHT, **fields, kv_blocks=BLOCKS // 2, tensor_parallel_size=size)
    for driver in (one, many):
        for number, (name, request) in enumerate(requests.items()):
            driver.add(name, **request)
            if number % 3 == 0:
                driver.step()
            if name in aborted:
                driver.engine.abort([name])
            elif number % 5 == 4:
                driver.engine.abort([f"{name} unknown"])
        driver.run()
    assert sum(stats.num_preemptions for stats in many.stats)
    assert sum(stats.prefix_cache_hits for stats in many.stats)
    for name in requests.keys() - set(aborted):
        ours, theirs = many.answers[name], one.answers[name]
        assert (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason)
        assert logprobs_of(ours) == pytest.approx(logprobs_of(theirs), abs=1e-3)
    assert many.engine.pool.num_used == 0
    # Every rank wrote the same number of blocks, each with its heads.
    caches = [many.engine.runner.kv_caches, *(runner.kv_caches for runner in threads)]
    assert {tensor.shape for cache in caches for tensor in cache[0]} == {(BLOCKS, 4, 1, 8)}


def logprobs_of(answer) -> list[float]:
    """All that an answer says of its tokens and its prompt."""
    found: list[float] = []
    for output in answer.outputs:
        for position in (output.logprobs or []) + (output.prompt_logprobs or []):
            if position is not None:
                found += [position.chosen.logprob, *(one.logprob for one in position.top)]
    return found


def test_blocks_are_cleared_on_every_rank(threads, make_engine) -> None:
    """A NaN that stays on one rank would come back into every later answer."""
    driver = make_engine(tensor_parallel_size=2, enable_prefix_caching=False)
    answer = driver.generate([5, 6, 7]).token_ids
    caches = [driver.engine.runner.kv_caches, *(runner.kv_caches for runner in threads)]
    for tensor in (tensor for cache in caches for layer in cache for tensor in layer):
        tensor.fill_(torch.nan)
    driver.engine.runner.clear_blocks(range(driver.engine.runner.num_blocks))
    assert driver.generate([5, 6, 7]).token_ids == answer
    for tensor in (tensor for cache in caches for layer in cache for tensor in layer):
        assert tensor.isfinite().all()


def test_a_long_step_and_a_long_table_fit_the_shared_memory(threads, make_engine) -> None:
    one = make_engine(max_num_seqs=4, max_num_batched_tokens=500)
    many = make_engine(max_num_seqs=4, max_num_batched_tokens=500, tensor_parallel_size=2)
    prompts = [[3 + (7 * i + j) % 120 for j in range(120)] for i in range(4)]
    for driver in (one, many):
        for number, prompt in enumerate(prompts):
            driver.add(str(number), prompt, params={"prompt_logprobs": 20, "max_tokens": 7})
        driver.run()
    for name, answer in one.answers.items():
        assert many.answers[name].token_ids == answer.token_ids
