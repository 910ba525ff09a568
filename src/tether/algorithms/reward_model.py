"""Reward model: one score a response, fitted to comparisons by Bradley–Terry (Ouyang et al. 2022, eq. 1).

    L = −log σ(r_w − r_l − m)      over every (better, worse) pair of a group, all pairs of a group in one batch

The mean over pairs is taken within a group first, so that a prompt with C(K,2) pairs weighs as one comparison
(Ouyang et al. 2022, eq. 1). Labels may be smoothed (a share ε of them is wrong), and scores drawn to mean zero.
Left out: Plackett–Luce, ensembles, encoder trunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tether.config import TrainSection
from tether.math.preference_losses import bradley_terry_loss, centering_loss, ranking_pairs
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Reward modelling on comparisons."""

    margin: Literal["none", "label"] = "none"
    """`label` asks the scores of a pair to differ by at least the pair's `margin` (Llama 2, eq. 2)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share ε of labels taken to be wrong."""
    centering: float = Field(default=0.0, ge=0)
    """Weight of (r_w + r_l)², which draws scores to mean zero and leaves differences alone (Eisenstein et al. 2023)."""
    dropout: bool = False
    """Leave the model's own dropout on while training."""


def roles(config: Config) -> dict[str, RoleSpec]:
    return {"reward": RoleSpec("reward", config.model, optim=config.optim, dropout=config.dropout)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    return ctx.batch(groups), {}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    scores = ctx.forward("reward", batch, ("scores",)).scores  # (S,)
    better, worse, weights, margins, first = [], [], [], [], 0
    for group in batch.groups:
        pairs = ranking_pairs(group.labels["ranking"])
        better += [first + w for w, _ in pairs]
        worse += [first + loser for _, loser in pairs]
        weights += [1.0 / (len(pairs) * batch.total.groups) for _ in pairs]  # none where all are equal
        margins += [group.labels.get("margin", 0.0) if ctx.config.margin == "label" else 0.0] * len(pairs)
        first += len(group.responses)
    chosen, rejected, weight = scores[better], scores[worse], scores.new_tensor(weights)  # (P,)
    fit = bradley_terry_loss(chosen, rejected, scores.new_tensor(margins), ctx.config.label_smoothing)
    objective = (weight * fit).sum()
    metrics = {
        "rm/loss": objective.detach(),
        "rm/accuracy": (weight * torch.where(chosen == rejected, 0.5, (chosen > rejected).float())).sum(),
        "rm/margin": (weight * (chosen - rejected).detach()).sum(),
        "rm/mean": (weight * (chosen + rejected).detach() / 2).sum(),
    }
    if ctx.config.centering:
        objective = objective + ctx.config.centering * (weight * centering_loss(chosen, rejected)).sum()
    return objective, metrics


REWARD_MODEL = Algorithm("reward_model", Config, roles, "preference", prepare, loss, select="eval/accuracy")
