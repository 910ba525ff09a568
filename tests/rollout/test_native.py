from __future__ import annotations

import logging
import math
from collections import Counter

import pytest
import torch

from tether.config import SamplingConfig
from tether.errors import InputError
from tether.models.plan import infer
from tether.rollout.caches import probe
from tether.rollout.draws import kept
from tether.rollout.native import NativeSampler
from tether.types import Prompt

CONTINUOUS = ["llama", "gpt2", "qwen3", "gemma3_text", "mistral", "gpt_neox", "bloom"]
LOCKSTEP = ["lfm2"]
UNCACHED = ["mamba"]


def tokens_of(groups):
    return [[r.token_ids for r in g.responses] for g in groups]


@pytest.mark.parametrize("name", CONTINUOUS + LOCKSTEP + UNCACHED)
def test_the_ratio_is_one_and_samples_are_independent_of_the_batch(make_role, template, prompts, name, caplog):
    role = make_role(name)
    few = NativeSampler(role, template, SamplingConfig(temperature=0.8, max_new_tokens=12, batch_size=7))
    groups = few.generate(prompts, 3, seed=5)
    assert [g.prompt for g in groups] == prompts
    assert all(len(g.responses) == 3 for g in groups)

    sampled = torch.tensor([p for g in groups for r in g.responses for p in r.logprobs])
    trained = infer(role, groups, ("logprobs",), temperature=0.8).logprobs
    torch.testing.assert_close(sampled, trained, atol=1e-4, rtol=0)

    for batch_size in (1, 1000):
        other = NativeSampler(role, template, SamplingConfig(temperature=0.8, max_new_tokens=12, batch_size=batch_size))
        assert tokens_of(other.generate(prompts, 3, seed=5)) == tokens_of(groups)
    # the last prompt is a copy of number 4, so in reverse those two change places, and all else stays
    backwards = tokens_of(few.generate(prompts[::-1], 3, seed=5))[::-1]
    backwards[4], backwards[-1] = backwards[-1], backwards[4]
    assert backwards == tokens_of(groups)
    assert tokens_of(few.generate(prompts, 3, seed=6)) != tokens_of(groups)
    assert tokens_of(groups)[4] != tokens_of(groups)[-1]


@pytest.mark.parametrize(
    ("kind", "names"), [("continuous", CONTINUOUS), ("lockstep", LOCKSTEP), ("uncached", UNCACHED)]
)
def test_the_fastest_cache_that_is_right_is_found(make_role, kind, names):
    for name in names:
        found, reason = probe(make_role(name))
        assert found == kind, reason
        assert bool(reason) == (kind != "continuous")


def test_a_slow_cache_is_said_once(make_role, template, prompts, caplog):
    sampler = NativeSampler(make_role("lfm2"), template, SamplingConfig(max_new_tokens=2))
    with caplog.at_level(logging.WARNING):
        sampler.generate(prompts, 1, seed=0)
        sampler.generate(prompts, 1, seed=0)
    assert [("LinearAttentionLayer" in r.message, "lockstep" in r.message) for r in caplog.records] == [(True, True)]


def test_a_long_queue_through_few_rows(make_role, template, prompts):
    """Long replies make the buffer move and grow many times, with rows of all ages in it."""
    role = make_role()
    params = SamplingConfig(max_new_tokens=90, batch_size=3)
    groups = NativeSampler(role, template, params).generate(prompts, 4, seed=2)
    assert max(len(r.token_ids) for g in groups for r in g.responses) == 90
    sampled = torch.tensor([p for g in groups for r in g.responses for p in r.logprobs])
    torch.testing.assert_close(sampled, infer(role, groups, ("logprobs",)).logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [2, 5, 64])
@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_a_prompt_is_read_once_and_a_finished_row_never_again(make_role, template, prompts, name, batch_size):
    role = make_role(name)
    sampler = NativeSampler(role, template, SamplingConfig(max_new_tokens=9, batch_size=batch_size))
    sampler.generate(prompts[:1], 1, seed=0)  # the probe is not counted
    rows = Counter()

    def count(module, args, kwargs):
        ids = kwargs["input_ids"]
        rows["read" if ids.shape[1] > 1 else "decoded"] += ids.shape[0]
        rows["widest"] = max(rows["widest"], ids.shape[0])

    handle = role.trunk.register_forward_pre_hook(count, with_kwargs=True)
    groups = sampler.generate(prompts, 4, seed=1)
    handle.remove()
    lengths = [len(r.token_ids) for g in groups for r in g.responses]
    assert rows["read"] == len(prompts)
    assert rows["decoded"] == sum(n - 1 for n in lengths)
    assert rows["widest"] <= batch_size
    assert min(lengths) < 9


def test_waiting_samples_take_the_place_of_finished_ones(make_role, template, prompts):
    role = make_role()
    sampler = NativeSampler(role, template, SamplingConfig(max_new_tokens=60, batch_size=8))
    sampler.generate(prompts[:1], 1, seed=0)
    widths = []
    handle = role.trunk.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    groups = sampler.generate(prompts, 8, seed=1)
    handle.remove()
    steps = sum(columns == 1 for _, columns in widths)
    lengths = [len(r.token_ids) for g in groups for r in g.responses]
    # Any schedule without idle rows takes at most this many steps; batches that wait for their longest take more.
    assert steps <= sum(lengths) / 8 + 60
    assert sum(max(lengths[i : i + 8]) - 1 for i in range(0, len(lengths), 8)) > sum(lengths) / 8 + 60


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (4, 0.8)])
def test_sequences_come_as_often_as_their_probability(make_role, template, top_k, top_p):
    """All sequences of up to two tokens over five, by enumeration, against 4,000 samples."""
    role = make_role(vocab_size=5)
    prompt = (2, 3, 4, 3)
    params = SamplingConfig(temperature=1.5, top_k=top_k, top_p=top_p, max_new_tokens=2, batch_size=500)

    def after(ids):
        with torch.no_grad():
            logits = role.hf(torch.tensor([ids])).logits[0, -1]
        weights = kept(torch.softmax(logits / 1.5, -1).unsqueeze(0), top_k, top_p)[0].double()
        return (weights / weights.sum()).tolist()

    expected = {}
    for first, p in enumerate(after(prompt)):
        if first == 1:
            expected[(1,)] = p
        else:
            expected |= {(first, second): p * q for second, q in enumerate(after((*prompt, first)))}
    expected = {ids: p for ids, p in expected.items() if p > 0}
    assert math.isclose(sum(expected.values()), 1)

    n = 4000
    [group] = NativeSampler(role, template, params).generate([Prompt(prompt)], n, seed=0)
    counts = Counter(r.token_ids for r in group.responses)
    assert set(counts) <= set(expected)
    rare = {ids for ids, p in expected.items() if n * p < 5}
    cells = [(counts[ids], n * p) for ids, p in expected.items() if ids not in rare]
    cells.append((sum(counts[i] for i in rare), sum(n * expected[i] for i in rare)))
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells if wanted)
    freedom = sum(wanted > 0 for _, wanted in cells) - 1
    # Wilson-Hilferty: the 99.9th percentile
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_a_response_ends_at_a_stop_token_or_is_cut(make_role, prompts, ids_template):
    stops = frozenset({1, 7, 20, 21})
    sampler = NativeSampler(make_role(), ids_template(stops), SamplingConfig(max_new_tokens=10))
    sampler.policy_version = 4
    responses = [r for g in sampler.generate(prompts, 8, seed=0) for r in g.responses]
    for r in responses:
        assert not stops.intersection(r.token_ids[:-1])
        assert r.ended == (r.token_ids[-1] in stops)
        assert r.ended or len(r.token_ids) == 10
        assert len(r.logprobs) == len(r.token_ids)
        assert r.text == " ".join(map(str, r.token_ids[:-1] if r.ended else r.token_ids))
        assert r.policy_version == 4
    assert {r.ended for r in responses} == {True, False}
    assert {r.token_ids[-1] for r in responses if r.ended} == stops
    assert any(r.ended and len(r.token_ids) == 1 for r in responses)


@pytest.mark.parametrize("name", ["llama", "mistral", "lfm2"])
def test_greedy_is_what_transformers_generates(make_role, template, prompts, name):
    role = make_role(name)
    groups = NativeSampler(role, template, SamplingConfig(max_new_tokens=20, temperature=2.0)).generate(
        prompts, 2, seed=0, greedy=True
    )
    for group in groups:
        ids = torch.tensor([group.prompt.token_ids])
        theirs = role.hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        expected = tuple(theirs[0, ids.shape[1] :].tolist())
        assert [r.token_ids for r in group.responses] == [expected] * 2
    logprobs = infer(role, groups, ("logprobs",), temperature=2.0).logprobs
    sampled = torch.tensor([p for g in groups for r in g.responses for p in r.logprobs])
    torch.testing.assert_close(sampled, logprobs, atol=1e-4, rtol=0)


def test_the_context_ends_a_response(make_role, ids_template):
    role = make_role(max_position_embeddings=16)
    sampler = NativeSampler(role, ids_template(frozenset()), SamplingConfig(max_new_tokens=10))
    long, short = sampler.generate([Prompt((5,) * 12), Prompt((5,) * 3)], 1, seed=0)
    assert [len(g.responses[0].token_ids) for g in (long, short)] == [4, 10]
    assert not long.responses[0].ended
    with pytest.raises(InputError, match=r"prompt q9 has 16 tokens.*context of 16.* 15 at most"):
        sampler.generate([Prompt((5,) * 16, meta={"id": "q9"})], 1, seed=0)
    with pytest.raises(InputError, match="prompt number 1 has no tokens"):
        sampler.generate([Prompt((5,)), Prompt(())], 1, seed=0)


def test_nothing_to_do(make_role, template, prompts):
    sampler = NativeSampler(make_role(), template, SamplingConfig())
    assert sampler.generate([], 3, seed=0) == []
    assert [g.responses for g in sampler.generate(prompts, 0, seed=0)] == [()] * len(prompts)


def test_it_samples_the_weights_as_they_are_now_and_leaves_them_trainable(make_role, template, prompts):
    role = make_role("gpt2", resid_pdrop=0.5)
    role.dropout = True
    role.train()
    sampler = NativeSampler(role, template, SamplingConfig(max_new_tokens=6))
    modes = [m.training for m in role.modules()]
    before = sampler.generate(prompts, 2, seed=0)
    assert tokens_of(sampler.generate(prompts, 2, seed=0)) == tokens_of(before)  # no dropout inside
    assert any(modes)
    assert [m.training for m in role.modules()] == modes
    loss = role(role.lay_out(before)).logprobs.mean()
    loss.backward()
    with torch.no_grad():
        for weight in role.parameters():
            weight -= 100 * weight.grad
    assert tokens_of(sampler.generate(prompts, 2, seed=0)) != tokens_of(before)


def test_broken_weights_are_named(make_role, template, prompts):
    role = make_role()
    sampler = NativeSampler(role, template, SamplingConfig(max_new_tokens=3))
    sampler.generate(prompts, 1, seed=0)
    with torch.no_grad():
        role.hf.lm_head.weight[5] = math.nan
    with pytest.raises(FloatingPointError, match="no finite probabilities after prompt p0"):
        sampler.generate(prompts, 1, seed=0)
