"""Reward modelling as a whole, through the model: TRL's own loss on a padded batch, and choix on the model's scores."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.conftest import Tiny, context, examples, stage
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from tether.algorithms.reward_model import REWARD_MODEL
from tether.models.save import save_role
from tether.train.context import Context
from tether.types import Group


def padded(groups: list[Group], pad: int) -> dict[str, Tensor]:
    """TRL's batch: all chosen responses, then all rejected ones, padded right; margins where there are any."""
    rows = [g.prompt.token_ids + g.responses[side].token_ids for side in (0, 1) for g in groups]
    longest = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
    }
    if "margin" in groups[0].labels:
        batch["margin"] = torch.tensor([g.labels["margin"] for g in groups])
    return batch


def trl_loss(model: Any, groups: list[Group], centering: float | None) -> Tensor:
    """`RewardTrainer.compute_loss` on a plain classifier."""
    pytest.importorskip("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's import, not ours
        from trl import RewardTrainer

    # All that `compute_loss` reads of its trainer, so that the batch can be chosen here.
    trainer = SimpleNamespace(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=centering),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    loss: Tensor = RewardTrainer.compute_loss(trainer, model, padded(groups, model.config.pad_token_id))
    return loss


def same_gradients(ctx: Context, theirs: Any) -> None:
    others = dict(theirs.named_parameters())
    for name, parameter in ctx.roles["reward"].hf.named_parameters():
        torch.testing.assert_close(parameter.grad, others[name].grad, rtol=1e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("centering", [0.0, 0.1])
@pytest.mark.parametrize("margin", ["none", "label"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_pairs_are_trls(tiny: Tiny, tmp_path: Path, architecture: str, margin: str, centering: float, count: int):
    ctx = context(stage("reward_model", tiny(architecture), margin=margin, centering=centering))
    groups = examples(ctx.template, count, 2, seed=count)
    if margin == "label":
        groups = [replace(g, labels={**g.labels, "margin": 0.3 * i}) for i, g in enumerate(groups)]
    save_role(ctx.roles["reward"], tmp_path / "model", ctx.template.tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    found, _ = REWARD_MODEL.loss(ctx, ctx.batch(groups))
    expected = trl_loss(model, groups, centering or None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.backward()
    expected.backward()
    same_gradients(ctx, model)


@pytest.mark.parametrize("shape", [(1, 2), (1, 5), (3, 3), (4, 4), (2, 7)])
def test_rankings_are_choixs(tiny: Tiny, shape: tuple[int, int]):
    """The loss is choix's likelihood of the model's scores, and reaches the head as choix's gradient says."""
    opt = pytest.importorskip("choix.opt")
    count, k = shape
    ctx = context(stage("reward_model", tiny(), loss="plackett_luce"))
    random = np.random.default_rng(count * 10 + k)
    orders = [random.permutation(k) for _ in range(count)]
    groups = [
        replace(g, labels={"ranking": tuple(np.argsort(order).tolist())})
        for g, order in zip(examples(ctx.template, count, k), orders, strict=True)
    ]
    role = ctx.roles["reward"]
    laid = role.lay_out(groups)
    states = role.hidden(laid).detach()[laid.last]
    scores = role(laid, ("scores",)).scores.detach().double().numpy()
    likelihood = opt.Top1Fcts.from_rankings([tuple(k * i + order) for i, order in enumerate(orders)], 0.0)
    loss, _ = REWARD_MODEL.loss(ctx, ctx.batch(groups))
    loss.backward()
    assert loss.item() == pytest.approx(likelihood.objective(scores) / count, rel=1e-5)
    slope = torch.from_numpy(likelihood.gradient(scores)).float() / count
    torch.testing.assert_close(role.scalar.weight.grad[0], slope @ states, rtol=1e-4, atol=1e-5)
