"""PPO-ptx: the same optimiser step learns from prompts and from text, each with its own mean, however it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage, token_reward

from tether.algorithms.ppo import PPO
from tether.monitor.log import read_events
from tether.train.cursor import Cursor
from tether.train.loop import Run, share, step, train
from tether.types import Group, Prompt, Response

PTX = {"data": {"path": "text.jsonl"}, "coef": 3.0, "batch_size": 5}
STEADY = {"lr": 0.05, "eps": 0.01, "max_grad_norm": 100.0}


def ready(tiny: Tiny, folder: Path, budget: int = 1024, **train_fields: Any) -> Run:
    section = stage(
        "ppo", tiny(), ptx=PTX, optim=STEADY, train={"token_budget": budget, "batch_size": 4} | train_fields
    )
    ctx = context(section, token_reward)
    prompts = [Group(g.prompt) for g in examples(ctx.template, 12, 1)]
    run = run_of(ctx, prompts, folder)
    blocks = [Group(Prompt((5 + i,)), (Response(tuple(range(6 + i, 11 + 2 * i)), ended=False),)) for i in range(9)]
    ctx.cursors["mix"] = Cursor(blocks, 7)
    return run


def grads(run: Run) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in run.ctx.roles["policy"].parameters() if p.grad is not None])


def test_the_gradient_is_the_sum_of_both(tiny: Tiny, tmp_path: Path):
    run = ready(tiny, tmp_path)
    ctx = run.ctx
    with torch.no_grad():
        batch, _ = PPO.prepare(ctx, run.cursor.draw(4))
    text = ctx.batch(ctx.cursors["mix"].draw(5))

    policy = ctx.roles["policy"]
    objective = PPO.loss(ctx, batch)[0]
    # −γ E[log p] worked out by transformers' own loss, sequence by sequence, at temperature 1.
    nll, count = 0.0, 0
    for group in text.groups:
        ids = torch.tensor([group.prompt.token_ids + group.responses[0].token_ids])
        tokens = ids.shape[1] - 1
        nll = nll + policy.hf(input_ids=ids, labels=ids).loss * tokens
        count += tokens
    (objective + 3.0 * nll / count).backward()
    expected = grads(run)
    for budget in (1024, 20):
        ctx.token_budget = budget
        run.optimizers["policy"].step = lambda: None
        run.optimizers["value"].step = lambda: None
        metrics = step(run, batch.replace(mix=text))
        torch.testing.assert_close(grads(run), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3)
        assert abs(metrics["policy/ptx_loss"] - float(nll.detach()) / count) < 1e-4


def test_optimiser_steps_share_the_text_out(tiny: Tiny, tmp_path: Path):
    text = ready(tiny, tmp_path).ctx
    batch = text.batch(text.cursors["mix"].draw(5))
    portions = [share(batch, i, 3) for i in range(3)]
    assert [len(p.groups) for p in portions] == [1, 2, 2]
    assert sum((p.groups for p in portions), ()) == batch.groups
    assert share(batch.take([0]), 0, 2) is None
    assert share(None, 0, 2) is None


def test_a_cut_run_finds_its_place_in_the_text(tiny: Tiny, tmp_path: Path):
    plan = {"steps": 4, "save_every": 2, "mini_batch_size": 2, "mini_epochs": 2}
    straight = ready(tiny, tmp_path / "straight", **plan)
    train(straight, [])
    cut = ready(tiny, tmp_path / "cut", **plan)
    whole = cut.algorithm.loss

    def loss(ctx: Any, batch: Any) -> Any:
        if ctx.step == 3:
            raise KeyboardInterrupt
        return whole(ctx, batch)

    cut.algorithm = cut.algorithm._replace(loss=loss)
    with pytest.raises(KeyboardInterrupt):
        train(cut, [])
    resumed = ready(tiny, tmp_path / "cut", **plan)
    train(resumed, [])
    for name, weights in straight.ctx.roles["policy"].state_dict().items():
        assert torch.equal(weights, resumed.ctx.roles["policy"].state_dict()[name]), name
    logs = [
        [e["policy/ptx_loss"] for e in read_events(tmp_path / where) if e["kind"] == "train"]
        for where in ("straight", "cut")
    ]
    assert logs[0] == logs[1]
    assert len(set(logs[0])) == 4
