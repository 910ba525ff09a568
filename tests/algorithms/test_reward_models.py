"""Reward models on rankings, with several heads, and on steps, against loops written out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage

from tether.algorithms.process_reward import PROCESS_REWARD
from tether.algorithms.reward_model import REWARD_MODEL
from tether.data.steps import mark_steps
from tether.errors import InputError
from tether.models.load import load_scalar
from tether.models.save import save_role
from tether.monitor.log import read_events
from tether.train.context import Context
from tether.train.loop import train
from tether.train.selftest import selftest
from tether.types import Group

RANKINGS = [(0, 1), (2, 0, 1), (2, 0, 0, 1), (0, 0)]
"""A pair, a full ranking, one of four with a tie, and nothing but a tie."""


def ranked(ctx: Context, rankings: list[tuple[int, ...]] = RANKINGS) -> list[Group]:
    return [
        replace(g, responses=g.responses[: len(r)], labels={"ranking": r})
        for g, r in zip(examples(ctx.template, len(rankings), max(map(len, rankings))), rankings, strict=True)
    ]


def with_heads(tiny: Tiny, heads: int, **fields: Any) -> Context:
    ctx = context(stage("reward_model", tiny(), heads=heads, **fields))
    ctx.roles["reward"] = load_scalar(tiny(), num_heads=heads, seed=2)
    return ctx


def drawn(scores: list[float], ranking: tuple[int, ...]) -> float:
    """−log of the chance to draw each response before those ranked below it."""
    total = 0.0
    for score, rank in zip(scores, ranking, strict=True):
        below = [s for s, other in zip(scores, ranking, strict=True) if other > rank]
        total += math.log(math.exp(score) + sum(map(math.exp, below))) - score
    return total


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("centering", [0.0, 0.3])
def test_plackett_luce_written_out(tiny: Tiny, heads: int, centering: float):
    ctx = with_heads(tiny, heads, loss="plackett_luce", centering=centering)
    groups = ranked(ctx)
    objective, metrics = REWARD_MODEL.loss(ctx, ctx.batch(groups))
    scores = ctx.infer("reward", groups, ("scores",)).scores.view(-1, heads).split([len(r) for r in RANKINGS])
    fit = centre = 0.0
    for own, ranking in zip(scores, RANKINGS, strict=True):
        pairs = [(a, b) for a in range(len(ranking)) for b in range(len(ranking)) if ranking[a] < ranking[b]]
        for head in own.T.tolist():
            fit += drawn(head, ranking) / heads / len(RANKINGS)
            centre += sum((head[a] + head[b]) ** 2 for a, b in pairs) / max(1, len(pairs)) / heads / len(RANKINGS)
    assert float(metrics["rm/loss"]) == pytest.approx(fit, rel=1e-4)
    assert objective.item() == pytest.approx(fit + centering * centre, rel=1e-4)
    assert ("rm/disagreement" in metrics) == (heads > 1)


def test_of_two_both_losses_are_one(tiny: Tiny):
    pairs, draws = (context(stage("reward_model", tiny(), loss=way)) for way in ("pairs", "plackett_luce"))
    groups = ranked(pairs, [(0, 1), (1, 0), (0, 1)])
    found = [REWARD_MODEL.loss(ctx, ctx.batch(groups)) for ctx in (pairs, draws)]
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-5)
    assert {k: float(v) for k, v in found[0][1].items()} == pytest.approx({k: float(v) for k, v in found[1][1].items()})


@pytest.mark.parametrize("way", ["pairs", "plackett_luce"])
def test_micro_batches_share_the_loss(tiny: Tiny, way: str):
    ctx = with_heads(tiny, 2, loss=way)
    batch = ctx.batch(ranked(ctx))
    whole, metrics = REWARD_MODEL.loss(ctx, batch)
    parts = [REWARD_MODEL.loss(ctx, batch.take(members)) for members in ([2], [0, 3], [1])]
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(whole.item(), rel=1e-5)
    for name, value in metrics.items():
        assert sum(float(m[name]) for _, m in parts) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_each_head_learns_as_if_alone(tiny: Tiny):
    """The gradient of a head among three is a third of what it gets by itself; metrics are of the mean score."""
    ctx = with_heads(tiny, 3)
    role = ctx.roles["reward"]
    groups = ranked(ctx)
    objective, metrics = REWARD_MODEL.loss(ctx, ctx.batch(groups))
    objective.backward()
    together = role.scalar.weight.grad
    for number in range(3):
        single = context(stage("reward_model", tiny()))
        single.roles["reward"].scalar.weight.data = role.scalar.weight.data[number : number + 1].clone()
        REWARD_MODEL.loss(single, single.batch(groups))[0].backward()
        torch.testing.assert_close(together[number] * 3, single.roles["reward"].scalar.weight.grad[0])
    scores = ctx.infer("reward", groups, ("scores",)).scores
    assert float(metrics["rm/disagreement"]) == pytest.approx(scores.std(1, correction=0).mean().item(), rel=1e-5)
    assert float(metrics["rm/margin"]) != 0


def test_heads_are_trained_saved_and_reloaded(tiny: Tiny, tmp_path: Path):
    plan = {"steps": 12, "batch_size": 4}
    ctx = with_heads(tiny, 3, train=plan, optim={"lr": 3e-3}, loss="plackett_luce")
    groups = ranked(ctx, [(0, 1, 2)] * 8)
    assert "same_in_any_batch" in selftest(REWARD_MODEL, ctx, groups)
    train(run_of(ctx, groups, tmp_path / "run"), [])
    losses = [e["rm/loss"] for e in read_events(tmp_path / "run") if e["kind"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    save_role(ctx.roles["reward"], tmp_path / "model", ctx.template.tokenizer)
    again = load_scalar(str(tmp_path / "model"), require_head=True)
    found = again(again.lay_out(groups), ("scores",)).scores
    torch.testing.assert_close(found, ctx.roles["reward"](again.lay_out(groups), ("scores",)).scores)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"loss": "plackett_luce", "margin": "label"}, "about pairs"),
        ({"loss": "plackett_luce", "label_smoothing": 0.1}, "about pairs"),
        ({"loss": "luce"}, "loss"),
        ({"heads": 0}, "heads"),
    ],
)
def test_what_the_recipe_may_not_say(tiny: Tiny, fields: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        stage("reward_model", tiny(), **fields)
    assert says in str(caught.value)


# Process reward models

LINES = ["hello there\nhow are you", "I am fine\nthank you\nthe cat", "what is\nyour\nname\n", "you"]
RIGHT = [(True, False), (True, True, False), (False, True, True), (True,)]


def stepped(ctx: Context) -> list[Group]:
    made = []
    for one, text, right in zip(examples(ctx.template, len(LINES), 1), LINES, RIGHT, strict=True):
        response = mark_steps(ctx.template.respond(one.prompt, text), ctx.template.decode)
        made.append(Group(one.prompt, (response,), {"steps": right}))
    return made


@pytest.mark.parametrize("how", ["token", "sequence"])
def test_step_loss_written_out(tiny: Tiny, how: str):
    ctx = context(stage("process_reward", tiny(), aggregate=how))
    groups = stepped(ctx)
    batch, _ = PROCESS_REWARD.prepare(ctx, groups)
    objective, metrics = PROCESS_REWARD.loss(ctx, batch)
    model = ctx.roles["reward"].hf
    loss, right, accuracy, mean = [], 0.0, 0.0, 0.0
    for group in groups:
        response = group.responses[0]
        ends = [i for i, end in enumerate(response.trained or ()) if end]
        own = []
        for end, label in zip(ends, group.labels["steps"], strict=True):
            # The classifier's own score of a chain that stops there.
            score = model(torch.tensor([group.prompt.token_ids + response.token_ids[: end + 1]])).logits.item()
            own.append(math.log1p(math.exp(-score if label else score)))
            right, mean = right + label, mean + 1 / (1 + math.exp(-score))
            accuracy += (score > 0) == label
        loss.append(own)
    count = sum(map(len, loss))
    by_hand = {"token": sum(map(sum, loss)) / count, "sequence": sum(sum(x) / len(x) for x in loss) / len(loss)}
    assert objective.item() == pytest.approx(by_hand[how], rel=1e-4)
    expected = {"loss": by_hand[how], "accuracy": accuracy / count, "right": right / count, "score": mean / count}
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
        {f"prm/{k}": v for k, v in expected.items()}, rel=1e-4
    )
    parts = [PROCESS_REWARD.loss(ctx, batch.take(members))[0].item() for members in ([3, 0], [1, 2])]
    assert sum(parts) == pytest.approx(objective.item(), rel=1e-5)


def test_steps_are_learnt(tiny: Tiny, tmp_path: Path):
    ctx = context(
        stage(
            "process_reward", tiny(), train={"steps": 30, "batch_size": 4}, optim={"lr": 3e-3}, eval_data={"path": "x"}
        )
    )
    groups = stepped(ctx)
    selftest(PROCESS_REWARD, ctx, groups)
    train(run_of(ctx, groups, tmp_path), groups)
    events = read_events(tmp_path)
    losses = [e["prm/loss"] for e in events if e["kind"] == "train"]
    assert losses[-1] < 0.3 * losses[0]
    assert [e["eval/accuracy"] for e in events if e["kind"] == "eval"][-1] == 1.0
