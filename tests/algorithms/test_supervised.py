"""SFT, plain language modelling and reward models against Hugging Face's own loss and against loops written out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, stage
from torch import Tensor

from tether.algorithms.lm import LM
from tether.algorithms.reward_model import REWARD_MODEL
from tether.algorithms.sft import SFT
from tether.data.formats import Example
from tether.data.load import blocks
from tether.data.template import Template
from tether.errors import InputError
from tether.models.load import load_policy
from tether.train.context import Context
from tether.types import Algorithm, Group, Prompt, Response


def hugging_face(model: Any, groups: list[Group]) -> Any:
    """A padded batch whose labels are -100 wherever nothing is learnt, through `model(..., labels=...)`."""
    rows = [(g.prompt.token_ids, r) for g in groups for r in g.responses]
    longest = max(len(prompt) + len(r.token_ids) for prompt, r in rows)
    ids, seen, labels = [], [], []
    for prompt, response in rows:
        kept = response.trained or (True,) * len(response.token_ids)
        learnt = [t if k else -100 for t, k in zip(response.token_ids, kept, strict=True)]
        pads = longest - len(prompt) - len(response.token_ids)
        ids.append([*prompt, *response.token_ids, *[0] * pads])
        seen.append([1] * (longest - pads) + [0] * pads)
        labels.append([*[-100] * len(prompt), *learnt, *[-100] * pads])
    return model(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(seen), labels=torch.tensor(labels), use_cache=False
    )


def compare(algorithm: Algorithm, ctx: Context, groups: list[Group], expected: Tensor, model: Any) -> None:
    """The loss and its gradient in every weight."""
    batch, _ = algorithm.prepare(ctx, groups)
    found, metrics = algorithm.loss(ctx, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float(metrics[f"{algorithm.name}/loss"]) == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    expected.backward()
    theirs = dict(model.named_parameters())
    for name, parameter in ctx.roles["policy"].hf.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_sft_is_masked_cross_entropy(tiny: Tiny, architecture: str):
    ctx = context(stage("sft", tiny(architecture)))
    groups = examples(ctx.template, 9, 1)
    turns = [("user", "hello there"), ("assistant", "I am fine"), ("user", "what is"), ("assistant", "the cat")]
    groups.append(ctx.template.conversation([{"role": role, "content": text} for role, text in turns]))
    trained = groups[-1].responses[0].trained
    assert trained is not None
    assert not all(trained)
    model = load_policy(tiny(architecture)).hf
    compare(SFT, ctx, groups, hugging_face(model, groups).loss, model)


def test_sft_by_sequence_is_the_mean_of_each_responses_mean(tiny: Tiny):
    ctx = context(stage("sft", tiny(), aggregate="sequence"))
    groups = examples(ctx.template, 6, 1)
    model = load_policy(tiny()).hf
    alone = torch.stack([hugging_face(model, [g]).loss for g in groups]).mean()
    assert abs(alone.item() - hugging_face(model, groups).loss.item()) > 1e-3
    compare(SFT, ctx, groups, alone, model)


def test_lm_is_cross_entropy_of_every_token(tiny: Tiny):
    ctx = context(stage("lm", tiny()))
    stream = [t for g in examples(ctx.template, 12, 1) for t in (*g.prompt.token_ids, *g.responses[0].token_ids)]
    rows = [stream[i : i + 16] for i in range(0, 64, 16)]
    groups = [Group(Prompt((row[0],)), (Response(tuple(row[1:]), ended=False),)) for row in rows]
    model = load_policy(tiny()).hf
    ids = torch.tensor(rows)
    compare(LM, ctx, groups, model(input_ids=ids, labels=ids).loss, model)


def test_blocks_for_lm_leave_out_nothing_but_a_short_rest(tiny: Tiny):
    template = Template.load(tiny())
    texts = ["hello there how are you", "the cat sat on the mat"] * 4
    made = blocks([Example(row=i, text=text) for i, text in enumerate(texts)], template, 16)
    stream = [t for text in texts for t in template.document(text)]
    read = [t for g in made for t in (*g.prompt.token_ids, *g.responses[0].token_ids)]
    assert read == stream[: len(stream) // 16 * 16]


def test_neftune_noise_is_uniform_in_its_range_and_only_in_training(tiny: Tiny):
    alpha = 5.0
    ctx = context(stage("sft", tiny(), neftune_alpha=alpha))
    role = ctx.roles["policy"]
    seen: list[Tensor] = []
    embedding = role.hf.get_input_embeddings()
    embedding.register_forward_hook(lambda m, args, out: seen.append(out - m.weight[args[0]]))
    groups = [Group(Prompt(tuple(range(5, 25))), (Response(tuple(range(30, 50))),))] * 8
    torch.manual_seed(0)
    noisy = ctx.forward("policy", ctx.batch(groups), ("logprobs",)).logprobs
    noise = seen.pop().detach()
    most = alpha / math.sqrt(noise.shape[1] * noise.shape[2])  # α / √(T·d), Jain et al. 2023
    assert noise.shape[1:] == (40, 32)
    assert 0.99 * most < noise.abs().max().item() <= most * 1.001
    assert noise.std().item() == pytest.approx(most / math.sqrt(3), rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=most / 50)
    with torch.no_grad():
        plain = ctx.forward("policy", ctx.batch(groups), ("logprobs",)).logprobs
    assert seen.pop().abs().max().item() == 0
    assert (noisy - plain).abs().max().item() > 1e-3
    clean = context(stage("sft", tiny()))
    torch.testing.assert_close(clean.infer("policy", groups, ("logprobs",)).logprobs, plain)


# Reward models


def ranked(ctx: Context, rankings: list[tuple[int, ...]], margins: list[float] | None = None) -> list[Group]:
    widest = examples(ctx.template, len(rankings), max(map(len, rankings)))
    made = [
        replace(g, responses=g.responses[: len(r)], labels={"ranking": r})
        for g, r in zip(widest, rankings, strict=True)
    ]
    if margins is None:
        return made
    return [replace(g, labels={**g.labels, "margin": m}) for g, m in zip(made, margins, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


RANKINGS = [(0, 1), (1, 0), (0, 1, 2), (2, 0, 0, 1)]
"""A pair either way round, a full ranking, and one of four with a tie."""


@pytest.mark.parametrize(
    "fields", [{}, {"label_smoothing": 0.2}, {"centering": 0.3}, {"margin": "label", "label_smoothing": 0.1}]
)
def test_reward_loss_written_out(tiny: Tiny, fields: dict[str, Any]):
    ctx = context(stage("reward_model", tiny(), **fields))
    margins = [0.5, 0.0, 1.5, 0.25]
    groups = ranked(ctx, RANKINGS, margins)
    batch, _ = REWARD_MODEL.prepare(ctx, groups)
    objective, metrics = REWARD_MODEL.loss(ctx, batch)

    scores = ctx.infer("reward", groups, ("scores",)).scores.split([len(r) for r in RANKINGS])
    smooth = fields.get("label_smoothing", 0.0)
    loss = center = accuracy = gap = mean = 0.0
    for row, ranking, margin in zip(scores, RANKINGS, margins, strict=True):
        given = row.tolist()
        places = range(len(ranking))
        pairs = [(a, b) for a in places for b in places if ranking[a] < ranking[b]]
        for winner, loser in pairs:
            m = margin if "margin" in fields else 0.0
            d = given[winner] - given[loser] - m
            share = 1 / len(pairs) / len(RANKINGS)  # a prompt counts once, however many pairs it has
            loss += share * (-(1 - smooth) * math.log(sigmoid(d)) - smooth * math.log(sigmoid(-d)))
            center += share * (given[winner] + given[loser]) ** 2
            accuracy += share * (given[winner] > given[loser])
            gap += share * (given[winner] - given[loser])
            mean += share * (given[winner] + given[loser]) / 2
    assert {len(p) for p in scores} == {2, 3, 4}
    assert objective.item() == pytest.approx(loss + fields.get("centering", 0.0) * center, rel=1e-4)
    expected = {"rm/loss": loss, "rm/accuracy": accuracy, "rm/margin": gap, "rm/mean": mean}
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, rel=1e-4)


def test_reward_loss_ignores_the_order_of_responses(tiny: Tiny):
    ctx = context(stage("reward_model", tiny()))
    groups = ranked(ctx, [(0, 1, 2), (1, 0)])
    turned = [
        Group(g.prompt, g.responses[::-1], {"ranking": tuple(reversed(g.labels["ranking"]))}) for g in reversed(groups)
    ]
    one, other = (REWARD_MODEL.loss(ctx, ctx.batch(x))[0].item() for x in (groups, turned))
    assert one == pytest.approx(other, rel=1e-5)


def test_equal_scores_are_half_right_and_cost_ln_2(tiny: Tiny):
    ctx = context(stage("reward_model", tiny()))
    ctx.roles["reward"].scalar.weight.data.zero_()
    objective, metrics = REWARD_MODEL.loss(ctx, ctx.batch(ranked(ctx, [(0, 1), (0, 1, 2)])))
    assert objective.item() == pytest.approx(math.log(2))
    assert float(metrics["rm/accuracy"]) == 0.5


def test_a_group_of_ties_teaches_nothing(tiny: Tiny):
    ctx = context(stage("reward_model", tiny()))
    tied = ranked(ctx, [(0, 0), (1, 1, 1)])
    objective, metrics = REWARD_MODEL.loss(ctx, ctx.batch(tied))
    objective.backward()
    assert objective.item() == 0
    assert all(float(value) == 0 for value in metrics.values())
    assert all(not p.grad.any() for p in ctx.roles["reward"].parameters() if p.grad is not None)


def test_centering_draws_scores_to_zero(tiny: Tiny):
    def after(weight: float) -> float:
        ctx = context(stage("reward_model", tiny(), centering=weight))
        groups = ranked(ctx, [(0, 1)] * 8)
        head = ctx.roles["reward"].scalar.weight
        states = ctx.roles["reward"].hidden(ctx.roles["reward"].lay_out(groups)).detach()
        head.data = 4 * states.mean(0, keepdim=True) / states.mean(0).square().sum()  # scores near 4
        optimizer = torch.optim.SGD([head], lr=0.005)
        for _ in range(40):
            optimizer.zero_grad()
            REWARD_MODEL.loss(ctx, ctx.batch(groups))[0].backward()
            optimizer.step()
        return float(REWARD_MODEL.loss(ctx, ctx.batch(groups))[1]["rm/mean"])

    free = after(0.0)
    assert free > 2
    assert abs(after(1.0)) < 0.25 * free


@pytest.mark.parametrize(
    ("algorithm", "fields", "says"),
    [
        ("sft", {"aggregate": "mean"}, "aggregate"),
        ("sft", {"neftune_alpha": -1.0}, "neftune_alpha"),
        ("sft", {"neftune_alpha": 5.0, "train": {"layout": "varlen"}}, "whole micro-batch"),
        ("reward_model", {"label_smoothing": 0.5}, "label_smoothing"),
        ("reward_model", {"margin": "rows"}, "margin"),
        ("reward_model", {"centering": -0.1}, "centering"),
        ("reward_model", {"train": {"keep": "best"}}, "train.keep = 'best' needs eval_data"),
        ("lm", {"aggregate": "token"}, "aggregate"),
    ],
)
def test_what_the_recipe_may_not_say(tiny: Tiny, algorithm: str, fields: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        stage(algorithm, tiny(), **fields)
    assert says in str(caught.value)
