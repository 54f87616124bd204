import math
import random

import pytest
import torch

from formgate.engine.sampling.logprobs import compute_logprobs
from formgate.engine.sampling.sampler import Sampler
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.sequence import Sequence
from formgate.kernels.sample_tokens import BROKEN

VOCAB, PADDED, EOS = 50, 64, 2
CPU = torch.device("cpu")


def make_sampler(seed=0, vocab=VOCAB):
    return Sampler(vocab_size=vocab, eos_token_ids=(EOS,), device=CPU, seed=seed)


def sequence(prompt=(5, 6), output=(), **params):
    params.setdefault("temperature", 0.0)
    tokens = [*prompt, *output]
    return Sequence("id", tokens, len(prompt), SamplingParams(**params))


def logits_of(*rows):
    """Each row a dict token -> logit; other tokens are far below. Padding is tempting."""
    logits = torch.full((len(rows), PADDED), -10.0)
    logits[:, VOCAB:] = 100.0
    for row, values in enumerate(rows):
        for token, value in values.items():
            logits[row, token] = value
    return logits


def choose(params, values, **kinds):
    return make_sampler().sample(logits_of(values), [sequence(**kinds, **params)]).token_ids[0]


def mask_of(*allowed):
    mask = torch.zeros(len(allowed), 2, dtype=torch.int32)
    for row, tokens in enumerate(allowed):
        for token in tokens:
            mask[row, token >> 5] |= torch.tensor(1).bitwise_left_shift(token & 31).int()
    return mask


def frequencies(values, num_draws=4000, seed=0, **params):
    """How often each token is drawn, from one batch of unseeded rows."""
    params.setdefault("temperature", 1.0)
    rows = [sequence(**params) for _ in range(num_draws)]
    logits = logits_of(values).expand(num_draws, PADDED).clone()
    drawn = torch.tensor(make_sampler(seed).sample(logits, rows).token_ids)
    counts = torch.bincount(drawn, minlength=VOCAB) / num_draws
    return {token: share for token, share in enumerate(counts.tolist()) if share}


def assert_distribution(found, expected):
    total = sum(expected.values())
    assert set(found) <= set(expected)
    for token, weight in expected.items():
        assert found.get(token, 0.0) == pytest.approx(weight / total, abs=0.035)


PROBS = {3: 0.5, 4: 0.25, 7: 0.15, 9: 0.1}
LOGITS = {token: math.log(p) + 8 for token, p in PROBS.items()}


def test_greedy_takes_the_best_token_and_never_padding():
    assert choose({}, {7: 3.0, 8: 2.0}) == 7


def test_temperature_shapes_the_distribution():
    assert_distribution(frequencies(LOGITS), PROBS)
    assert_distribution(frequencies(LOGITS, temperature=0.5), {t: p**2 for t, p in PROBS.items()})
    assert set(frequencies(LOGITS, num_draws=50, temperature=1e-30)) == {3}


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {3, 4}),
        ({"top_k": 1000}, {3, 4, 7, 9}),
        ({"top_p": 0.49}, {3}),
        ({"top_p": 0.51}, {3, 4}),
        ({"top_p": 0.0}, {3}),
        ({"min_p": 0.4}, {3, 4}),
        ({"min_p": 1.0}, {3}),
        ({"top_k": 3, "top_p": 0.8}, {3, 4}),  # 0.75 of 0.9 is more than 0.8 of it
        ({"top_p": 0.95, "min_p": 0.25}, {3, 4, 7}),
    ],
    ids=str,
)
def test_truncation(params, kept):
    assert_distribution(frequencies(LOGITS, **params), {t: PROBS[t] for t in kept})


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_in_a_flat_distribution_that_no_head_covers(top_p):
    vocab = 3000
    logits = torch.randn(64, vocab, generator=torch.Generator().manual_seed(1)) * 0.3
    rows = [sequence(temperature=1.0, top_p=top_p) for _ in range(64)]
    drawn = make_sampler(vocab=vocab).sample(logits.clone(), rows).token_ids
    for row, token in zip(logits, drawn, strict=True):
        probs = row.double().softmax(-1)
        assert probs[probs > probs[token]].sum() < top_p


def test_rows_of_all_kinds_in_one_batch_do_not_mix():
    kinds = [{}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1.0, "min_p": 0.9}]
    kinds += [{"temperature": 1.0, "top_p": 0.2}, {"logit_bias": {9: 50.0}}, {}]
    rows = [sequence(**kind) for kind in kinds]
    values = [{10 + row: 9.0, 20: 5.0} for row in range(len(rows))]
    assert make_sampler().sample(logits_of(*values), rows).token_ids == [10, 11, 12, 13, 9, 15]


def test_logit_bias_and_allowed_tokens():
    assert choose({"logit_bias": {4: 100.0, 7: -100.0}}, {7: 3.0}) == 4
    assert choose({"logit_bias": {60: 100.0}}, {7: 3.0}) == 7  # past the vocabulary
    assert choose({"allowed_token_ids": (8, 60)}, {7: 3.0, 8: 1.0}) == 8


def test_bad_words():
    values = {7: 3.0, 8: 2.0, 9: 1.0}
    assert choose({"bad_words": ((7,),)}, values) == 8
    word = {"bad_words": ((5, 7), (11, 12, 7))}
    assert choose(word, values, output=(5,)) == 8
    assert choose(word, values, output=(11, 12)) == 8
    assert choose(word, values, output=(12, 11)) == 7
    assert choose(word, values, prompt=(1, 5)) == 7  # the prompt's tokens begin no word


def test_what_requests_change_does_not_depend_on_the_batch():
    """Rows with every mix of allowed tokens, bias and bad words, against plain arithmetic, while
    rows come and go."""
    generator = random.Random(0)
    sampler, rows = make_sampler(), []
    for number in range(60):
        fields, output = {}, [generator.randrange(VOCAB) for _ in range(number % 5)]
        tokens = [generator.randrange(VOCAB + 9) for _ in range(12)]
        if number % 2:
            fields["allowed_token_ids"] = (*range(20), *tokens, tokens[0])
        if number % 3:
            fields["logit_bias"] = {token: generator.uniform(-3, 3) for token in tokens}
        if number % 4:
            words = [(*output[-length:], tokens[length]) for length in range(number % 5)]
            fields["bad_words"] = (*words, (tokens[5],), (tokens[5],), (1, 2, 3, 4, 5, 6))
        rows.append(sequence(output=output, **fields))
    for _ in range(4):
        generator.shuffle(rows)
        batch = rows[:40]
        logits = torch.randn(len(batch), PADDED, generator=torch.Generator().manual_seed(1))
        expected = []
        for row, one in zip(logits[:, :VOCAB].clone(), batch, strict=True):
            params = one.params
            for token, value in (params.logit_bias or {}).items():
                if token < VOCAB:
                    row[token] += value
            for token in range(VOCAB):
                output = (*one.token_ids[one.num_prompt_tokens :], token)
                ends_a_word = any(output[-len(word) :] == word for word in params.bad_words)
                if ends_a_word or token not in (params.allowed_token_ids or range(VOCAB)):
                    row[token] = -math.inf
            expected.append(int(row.argmax()))
        assert sampler.sample(logits, batch).token_ids == expected


def test_repetition_penalty_sees_prompt_and_output():
    values = {5: 3.0, 7: 2.9, 8: 2.0, 9: 1.6}
    assert choose({"repetition_penalty": 2.0}, values, output=(7,)) == 8
    negative = dict.fromkeys(range(VOCAB), -1.0) | {5: -0.9}
    assert choose({"repetition_penalty": 2.0}, negative, prompt=(5,)) != 5


def test_frequency_and_presence_penalties_see_the_output_only():
    values = {5: 3.0, 7: 2.9}
    assert choose({"frequency_penalty": 1.0}, values) == 5
    assert choose({"frequency_penalty": 0.06}, values, output=(5,)) == 5
    assert choose({"frequency_penalty": 0.06}, values, output=(5, 5)) == 7
    assert choose({"presence_penalty": 0.06}, values, output=(5, 5, 5)) == 5
    assert choose({"presence_penalty": 0.2}, values, output=(5,)) == 7


def test_counts_follow_sequences_through_changing_batches():
    """Kept from step to step, they must give what counting from nothing gives."""
    params = {"frequency_penalty": 0.7, "presence_penalty": -0.3, "repetition_penalty": 1.3}
    rows = [sequence(prompt=(row, 5), **params) for row in range(4)]
    plain = sequence()
    kept = make_sampler()
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        batch = [row for number, row in enumerate(rows) if (step + number) % 5]
        batch.insert(step % 2, plain)
        logits = torch.randn(len(batch), PADDED, generator=generator)
        chosen = kept.sample(logits.clone(), batch).token_ids
        assert chosen == make_sampler().sample(logits.clone(), batch).token_ids
        for row, token in zip(batch, chosen, strict=True):
            row.token_ids.append(token)
    del rows[0].token_ids[-3:]
    logits = torch.randn(4, PADDED, generator=generator)
    assert (
        kept.sample(logits.clone(), rows).token_ids
        == make_sampler().sample(logits.clone(), rows).token_ids
    )


def test_min_tokens_holds_back_eos_and_stop_ids():
    values = {EOS: 5.0, 9: 4.0, 8: 3.0}
    params = {"min_tokens": 2, "stop_token_ids": (9,)}
    assert choose(params, values, output=(1,)) == 8
    assert choose(params, values, output=(1, 1)) == EOS
    assert choose(params | {"ignore_eos": True}, values, output=(1,)) == EOS  # ends nothing


def test_min_tokens_yields_to_a_mask_that_leaves_only_eos():
    rows = [sequence(min_tokens=5), sequence(min_tokens=5), sequence(min_tokens=5)]
    logits = logits_of({EOS: 5.0, 9: 4.0}, {EOS: 5.0, 9: 4.0}, {EOS: 5.0, 9: 4.0})
    sampled = make_sampler().sample(logits, rows, mask_of({EOS}, {EOS, 8}, {1}), [0, 1])
    assert sampled.token_ids == [EOS, 8, 9]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bitmask_holds_in_its_rows_only(temperature):
    rows = [sequence(temperature=temperature, seed=row) for row in range(3)]
    logits = logits_of({7: 30.0}, {7: 30.0}, {7: 30.0})
    mask = mask_of({1}, {40, 41}, {3})
    drawn = make_sampler().sample(logits.clone(), rows, mask, [1]).token_ids
    assert drawn[0] == drawn[2] == 7
    assert drawn[1] in (40, 41)
    every = make_sampler().sample(logits, rows, mask).token_ids
    assert (every[0], every[2]) == (1, 3)


def generate(sampler, rows, num_steps, extra=()):
    """Logits that depend on the row's own tokens, as a model's do."""
    for _ in range(num_steps):
        batch = [*extra, *rows]
        logits = torch.stack(
            [
                torch.randn(PADDED, generator=torch.Generator().manual_seed(sum(s.token_ids)))
                for s in batch
            ]
        )
        for row, token in zip(batch, sampler.sample(logits, batch).token_ids, strict=True):
            row.token_ids.append(token)
    return [row.token_ids for row in rows]


def test_a_seed_gives_the_same_tokens_alone_in_a_batch_and_after_preemption():
    def seeded():
        return sequence(temperature=1.2, top_p=0.9, seed=42)

    alone = generate(make_sampler(), [seeded()], 20)[0]
    others = [sequence(temperature=0.7), sequence(), sequence(temperature=1.0, seed=1, top_k=3)]
    assert generate(make_sampler(seed=9), [seeded()], 20, extra=others)[0] == alone
    resumed = seeded()
    generate(make_sampler(seed=3), [resumed], 7)
    assert generate(make_sampler(seed=4), [resumed], 13)[0] == alone
    assert generate(make_sampler(), [sequence(temperature=1.2, top_p=0.9, seed=43)], 20)[0] != alone


def test_a_seeds_draws_are_uniform_over_positions():
    rows = [sequence(temperature=1.0, seed=7, output=(1,) * n) for n in range(3000)]
    drawn = make_sampler().sample(logits_of(LOGITS).expand(3000, PADDED).clone(), rows).token_ids
    shares = {token: drawn.count(token) / 3000 for token in set(drawn)}
    assert_distribution(shares, PROBS)


def test_unseeded_rows_follow_the_engines_seed():
    def run(seed):
        return generate(make_sampler(seed), [sequence(temperature=1.0)], 20)[0]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_logprobs_are_the_models_own():
    rows = [sequence(), sequence(logprobs=3, temperature=1.0, logit_bias={9: 90.0}), sequence()]
    rows.append(sequence(logprobs=0, repetition_penalty=1.5))
    logits = torch.randn(4, PADDED, generator=torch.Generator().manual_seed(0))
    expected = logits[:, :VOCAB].double().log_softmax(-1)
    sampled = make_sampler().sample(logits, rows)
    assert sampled.logprobs[0] is None
    assert sampled.logprobs[2] is None
    for row, num_top in ((1, 3), (3, 0)):
        position = sampled.logprobs[row]
        order = expected[row].argsort(descending=True).tolist()
        assert position.chosen.token_id == sampled.token_ids[row]
        assert position.chosen.logprob == pytest.approx(
            expected[row, position.chosen.token_id].item(), abs=1e-5
        )
        assert position.chosen.rank == order.index(position.chosen.token_id) + 1
        assert [top.token_id for top in position.top] == order[:num_top]
        assert [top.rank for top in position.top] == list(range(1, num_top + 1))
        for top in position.top:
            assert top.logprob == pytest.approx(expected[row, top.token_id].item(), abs=1e-5)
    assert sampled.logprobs[1].chosen.token_id == 9


def test_logprobs_of_given_tokens():
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([0, 1, 2, 3, 4, 49])
    found = compute_logprobs(logits, tokens, 1000)
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(found.chosen, expected.gather(1, tokens.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(found.top, expected.sort(dim=-1, descending=True).values)


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 1.0, "top_p": 0.9, "top_k": 5, "logprobs": 2}], ids=str
)
def test_a_broken_row_is_reported_and_touches_no_other(params):
    rows = [sequence(**params, seed=row) for row in range(5)]
    logits = logits_of({7: 9.0}, {7: 9.0}, {7: 9.0}, {7: 9.0}, {7: 9.0})
    healthy = make_sampler().sample(logits.clone(), rows)
    logits[1] = math.nan
    logits[2, 8] = math.nan
    logits[3] = -math.inf
    sampled = make_sampler().sample(logits, rows)
    assert sampled.broken_rows == {1, 2, 3}
    assert [sampled.token_ids[row] for row in (1, 2, 3)] == [BROKEN] * 3
    for row in (0, 4):
        assert sampled.token_ids[row] == healthy.token_ids[row]
        assert sampled.logprobs[row] == healthy.logprobs[row]


def test_a_mask_that_leaves_nothing_breaks_its_row():
    rows = [sequence(), sequence()]
    sampled = make_sampler().sample(logits_of({7: 9.0}, {7: 9.0}), rows, mask_of({1}, set()))
    assert sampled.token_ids == [1, BROKEN]
